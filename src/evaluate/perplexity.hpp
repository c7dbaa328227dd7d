#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "comm/mesh.hpp"
#include "data/token_stream.hpp"
#include "evaluate/window_memory.hpp"
#include "model/llama.hpp"

namespace longlora {

enum class Scoring {
    sliding,   // every label once, with as much context as its window gives
    longlora,  // all labels inside every window: eval.py of the LongLoRA authors
};

// Who sees whom inside a window. Groups are those of training, or a quarter of the context.
struct Visibility {
    Pattern pattern = Pattern::full;
    Index group = 0;  // 0: context / 4
    Boundary boundary = Boundary::truncate;
};

// What is scored: labels 1 .. scored of the stream, the same for every context (longlora: of the
// windows that fit in there).
struct PerplexityTask {
    std::vector<Index> contexts;
    Index stride;  // tokens that the window moves; 0: half the context; at most the context
    Index tokens;  // scored labels per context; 0: the whole stream
    Scoring scoring = Scoring::sliding;
    Visibility visibility = {};
    std::function<bool()> should_stop = {};  // asked between chunks, by all ranks alike
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

// Windows every `stride` tokens, all labels inside each counted, so most of them context / stride
// times, with all contexts from one token on. As there, the last window that fits is left out, unless
// it is the only one.                      (github.com/dvlab-research/LongLoRA, eval.py)
std::vector<Window> longlora_windows(Index context, Index stride, Index scored);

// The layout of one window that `ranks` share: in chunks where a shard would be longer than
// `most_tokens`. Error (bad input) where its groups do not fit.
Layout window_layout(Index context, Index ranks, const Visibility& visibility, Index most_tokens);

// Labels that are scored for each context: as asked for, at most what the stream has and at least the
// longest context. Throws Error (bad input) when the stream is shorter than that.
Index scored_labels(const PerplexityTask& task, const TokenStream& stream);

// Perplexity under full causal attention, or that of training. Windows are dealt to the replicas; a
// window that is long, or alone, is shared by several ranks, and runs through in chunks. Collective; the same result on all ranks.
template <class Device>
class PerplexityEvaluator {
public:
    // most_tokens: whose hidden states a rank holds at once.
    PerplexityEvaluator(const LlamaConfig& config, const Tune& tune, Index most_tokens = 8192);

    // What run() takes besides the model, at most: with many windows each has the fewest ranks.
    WindowBytes most_bytes(const PerplexityTask& task) const;

    // One result for each context; fewer when `should_stop` said so.
    std::vector<Perplexity> run(const Llama<Device>& model, const TokenStream& data,
                                const PerplexityTask& task, const Stream<Device>& stream);

private:
    // Windows of one context length, and who sees whom in them.
    struct Windows {
        Index context;
        Visibility visibility;
        std::vector<Window> places;
        std::function<bool()> should_stop;
    };
    struct Sums {
        double loss = 0;
        double labels = 0;

        void operator+=(const Sums& other) {
            loss += other.loss;
            labels += other.labels;
        }
    };
    std::optional<Perplexity> run_context(const Llama<Device>& model, const TokenStream& data,
                                          const Windows& windows, const Stream<Device>& stream);
    Sums score_shard(const Llama<Device>& model, const TokenStream& data, const Window& window,
                     WindowMemory<Device>& memory, const Stream<Device>& stream) const;
    Index ranks_per_window(Index context, Index windows) const;

    LlamaConfig config_;
    Tune tune_;
    Index most_tokens_;
    PhaseTimer timer_;
};

}  // namespace longlora
