#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "comm/mesh.hpp"
#include "data/token_stream.hpp"
#include "model/llama.hpp"

namespace longlora {

// What is scored: labels 1 .. scored of the stream, the same for every context.
struct PerplexityTask {
    std::vector<Index> contexts;
    Index stride;  // tokens that the window moves; 0: half the context; at most the context
    Index tokens;  // scored labels per context; 0: the whole stream
    std::function<bool()> should_stop = {};  // asked between windows, by all ranks alike
};

struct Perplexity {
    Index context = 0;
    Index scored = 0;  // labels
    double value = 0;
};

// One window of the sliding evaluation: tokens [begin, begin + context), of whose labels only those
// that no earlier window has scored count.              (Press, Smith, Lewis, "Shortformer", 2021)
struct Window {
    Range tokens;
    Range scored;  // rows of the window whose labels count
};
std::vector<Window> sliding_windows(Index context, Index stride, Index scored);

// Labels that are scored for each context: as asked for, at most what the stream has and at least the
// longest context. Throws Error (bad input) when the stream is shorter than that.
Index scored_labels(const PerplexityTask& task, const TokenStream& stream);

// Perplexity under full causal attention. Windows are dealt to the replicas; a window that is long,
// or alone, is shared by several ranks. Collective; the same result on all ranks.
template <class Device>
class PerplexityEvaluator {
public:
    PerplexityEvaluator(const LlamaConfig& config, const Tune& tune);

    // One result for each context; fewer when `should_stop` said so.
    std::vector<Perplexity> run(const Llama<Device>& model, const TokenStream& data,
                                const PerplexityTask& task, const Stream<Device>& stream);

private:
    std::optional<Perplexity> run_context(const Llama<Device>& model, const TokenStream& data,
                                          Index context, const PerplexityTask& task,
                                          const Stream<Device>& stream);
    Index ranks_per_window(Index context, Index windows) const;

    LlamaConfig config_;
    Tune tune_;
    PhaseTimer timer_;
};

}  // namespace longlora
