#include "evaluate/perplexity.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "comm/agree.hpp"
#include "comm/environment.hpp"
#include "core/error.hpp"
#include "core/fault_point.hpp"
#include "core/host_copy.hpp"
#include "evaluate/window_memory.hpp"

namespace longlora {
namespace {

Index step_of(Index context, Index stride) {
    return std::clamp<Index>(stride == 0 ? context / 2 : stride, 1, context);
}

// The fewest chunks with shards of at most `most_tokens` that are aligned with the groups and not
// much shorter; 1 where there are none. Under full attention chunks also even out the ranks' work.
Layout streamed(const Layout& layout, Index most_tokens) {
    const auto fits = [&](const Layout& tried) {
        return tried.length % tried.shards() == 0 && tried.shard_length() <= most_tokens &&
               (tried.pattern == Pattern::full || tried.is_aligned());
    };
    for (Layout tried = layout; 8 * tried.shard_length() >= most_tokens; ++tried.chunks) {
        if (fits(tried)) {
            return tried;
        }
    }
    return layout;
}

}  // namespace

std::vector<Window> sliding_windows(Index context, Index stride, Index scored) {
    const Index step = step_of(context, stride);
    std::vector<Window> windows = {{{0, context}, {0, context}}};
    for (Index done = context; done < scored;) {
        const Index end = std::min(done + step, scored);
        windows.push_back({{end - context, end}, {context - (end - done), context}});
        done = end;
    }
    return windows;
}

std::vector<Window> longlora_windows(Index context, Index stride, Index scored) {
    std::vector<Window> windows;
    // There a window's labels are its own tokens, so its last token predicts nothing.
    for (Index begin = 0; begin + context <= scored; begin += step_of(context, stride)) {
        windows.push_back({{begin, begin + context}, {0, context - 1}});
    }
    if (windows.size() > 1) {
        windows.pop_back();
    }
    return windows;
}

// A context of up to half a group lies inside one group of every head.
Layout window_layout(Index context, Index ranks, const Visibility& visibility, Index most_tokens) {
    const Index group = visibility.group > 0 ? visibility.group : context / 4;
    if (visibility.pattern == Pattern::full || 2 * context <= group) {
        return streamed({context, 0, ranks, 1, Pattern::full, Boundary::truncate}, most_tokens);
    }
    require(group >= 2 && group % 2 == 0 && context % (group / 2) == 0,
            "evaluate.attention s2: a context of " + std::to_string(context) +
                " tokens does not divide into half-groups of " + std::to_string(group / 2) +
                "; choose evaluate.contexts that are multiples, or attention.group");
    const Layout whole{context, group, ranks, 1, visibility.pattern, visibility.boundary};
    return whole.boundary == Boundary::wrap ? whole : streamed(whole, most_tokens);
}

Index scored_labels(const PerplexityTask& task, const TokenStream& stream) {
    const Index longest = *std::max_element(task.contexts.begin(), task.contexts.end());
    const Index labels = stream.size() - 1;
    require(labels >= longest, stream.name() + " holds " + std::to_string(stream.size()) +
                                   " tokens, fewer than the longest of evaluate.contexts (" +
                                   std::to_string(longest) +
                                   ") and one label more; use a longer text or shorter contexts");
    const Index scored =
        std::max(longest, task.tokens > 0 ? std::min(task.tokens, labels) : labels);
    require(stream.count_labels({1, 1 + scored}) > 0,
            stream.name() + " has nothing to score: its first " + std::to_string(scored) +
                " labels all belong to prompts; raise evaluate.tokens, or give documents with "
                "longer completions");
    return scored;
}

template <class Device>
PerplexityEvaluator<Device>::PerplexityEvaluator(const LlamaConfig& config, const Tune& tune,
                                                 Index most_tokens)
    : config_(config), tune_(tune), most_tokens_(most_tokens) {
    tune_.dropout = 0;
}

// Whole windows need no communication, so they are shared only when there are fewer than ranks or
// when one is too long for a rank.
template <class Device>
Index PerplexityEvaluator<Device>::ranks_per_window(Index context, Index windows) const {
    const Index world = world_size();
    for (Index ranks = 1; ranks < world; ++ranks) {
        if (world % ranks == 0 && context % ranks == 0 && context / ranks <= most_tokens_ &&
            world / ranks <= windows) {
            return ranks;
        }
    }
    return context % world == 0 ? world : 1;
}

template <class Device>
WindowBytes PerplexityEvaluator<Device>::most_bytes(const PerplexityTask& task) const {
    constexpr Index many = std::numeric_limits<Index>::max();
    WindowBytes most;
    for (const Index context : task.contexts) {
        const Index ranks = ranks_per_window(context, many);
        const Layout layout = window_layout(context, ranks, task.visibility, most_tokens_);
        check_layout(layout);
        const auto bytes =
            WindowMemory<Device>::bytes(config_, tune_, layout, world_rank() % ranks);
        most = {std::max(most.arena, bytes.arena), std::max(most.host, bytes.host)};
    }
    return most;
}

template <class Device>
std::vector<Perplexity> PerplexityEvaluator<Device>::run(const Llama<Device>& model,
                                                         const TokenStream& data,
                                                         const PerplexityTask& task,
                                                         const Stream<Device>& stream) {
    const Index scored = agree([&] { return scored_labels(task, data); });
    std::vector<Perplexity> results;
    for (const Index context : task.contexts) {
        const auto places = task.scoring == Scoring::sliding
                                ? sliding_windows(context, task.stride, scored)
                                : longlora_windows(context, task.stride, scored);
        const auto result =
            run_context(model, data, {context, task.visibility, places, task.should_stop}, stream);
        if (!result) {
            break;
        }
        results.push_back(*result);
    }
    return results;
}

template <class Device>
std::optional<Perplexity> PerplexityEvaluator<Device>::run_context(const Llama<Device>& model,
                                                                   const TokenStream& data,
                                                                   const Windows& windows,
                                                                   const Stream<Device>& stream) {
    const auto count = static_cast<Index>(windows.places.size());
    const Mesh<Device> mesh(static_cast<int>(ranks_per_window(windows.context, count)));
    const Layout layout = agree([&] {
        Layout wanted =
            window_layout(windows.context, mesh.sequence_size(), windows.visibility, most_tokens_);
        check_layout(wanted);
        return wanted;
    });
    Arena<Device> arena(
        "evaluation",
        WindowMemory<Device>::bytes(config_, tune_, layout, mesh.sequence_index()).arena);
    WindowMemory<Device> memory(arena, config_, tune_, layout, mesh.sequence_index());
    memory.exchange.connect(mesh.sequence(), timer_);
    Sums sums;
    for (Index first_window = 0; first_window < count; first_window += mesh.data_size()) {
        const Index w = first_window + mesh.data_index();
        for (Index chunk = 0; chunk < layout.chunks; ++chunk) {
            if (windows.should_stop && windows.should_stop()) {
                return std::nullopt;
            }
            if (w < count) {
                fault_point("evaluate");
                memory.exchange.begin_chunk(chunk, Pass::keep);
                sums += score_shard(model, data, windows.places[static_cast<std::size_t>(w)],
                                    memory, stream);
            }
        }
    }
    std::array<double, 2> total{sums.loss, sums.labels};
    mesh.world().all_reduce_sum(View<Cpu, double, 1>(total.data(), 2));
    return Perplexity{windows.context, static_cast<Index>(total[1]), std::exp(total[0] / total[1])};
}

// The shard of the window that the exchange has begun: earlier chunks left their K/V in there.
template <class Device>
typename PerplexityEvaluator<Device>::Sums PerplexityEvaluator<Device>::score_shard(
    const Llama<Device>& model, const TokenStream& data, const Window& window,
    WindowMemory<Device>& memory, const Stream<Device>& stream) const {
    const Range shard = memory.exchange.tokens();
    model.set_position(stream, memory.scratch, shard.begin);
    const Index first = window.tokens.begin + shard.begin;
    HostCopy<Device, std::int32_t> tokens(memory.tokens);
    HostCopy<Device, std::int32_t> labels(memory.labels);
    data.read({first, first + shard.size()}, tokens.values());
    data.read_labels({first + 1, first + 1 + shard.size()}, labels.values());
    tokens.write_back(stream);
    labels.write_back(stream);
    LayerRun<Device> run{stream, memory.scratch, {}, static_cast<float>(config_.rms_epsilon)};
    model.forward_only(run, {memory.tokens, memory.labels}, memory.activations, memory.exchange);
    const Range rows{std::max(window.scored.begin, shard.begin) - shard.begin,
                     std::min(window.scored.end, shard.end) - shard.begin};
    if (rows.empty()) {
        return {};
    }
    const auto scored = labels.values().subspan(static_cast<std::size_t>(rows.begin),
                                                static_cast<std::size_t>(rows.size()));
    const auto count = std::count_if(scored.begin(), scored.end(), [](auto l) { return l >= 0; });
    return {model.loss(run, {memory.activations.residual().rows(rows), memory.labels.slice(rows), 1,
                             false}),
            static_cast<double>(count)};
}

LONGLORA_INSTANTIATE(PerplexityEvaluator);

}  // namespace longlora
