#include "plan/run_plan.hpp"

#include <algorithm>
#include <array>

#include "comm/environment.hpp"
#include "core/error.hpp"
#include "core/text.hpp"

namespace longlora {
namespace {

constexpr Index most_chunks = 1 << 16;

Layout layout_of(const PlanRequest& request, Index ranks, Index chunks) {
    return {request.length, request.group, ranks, chunks, request.pattern, request.boundary};
}

bool divides(const Layout& layout) { return layout.length % layout.shards() == 0; }

// The largest divisor of the world that keeps shards aligned; full attention has no alignment, any
// divisor of the length will do.
Index choose_sequence_ranks(const PlanRequest& request, Index world) {
    const Index chunks = std::max<Index>(request.chunks, 1);
    for (Index ranks = world; ranks > 1; --ranks) {
        const Layout layout = layout_of(request, ranks, chunks);
        if (world % ranks == 0 && divides(layout) &&
            (request.pattern == Pattern::full || layout.is_aligned())) {
            return ranks;
        }
    }
    return 1;
}

struct Candidate {
    Index chunks;
    ActivationPolicy policy;
    double work;  // extra forwards
};

// Recomputing the MLP costs about half a forward, a whole layer one; C chunks cost (C-1)/C.
std::vector<Candidate> candidates(const PlanRequest& request, Index ranks) {
    constexpr std::array<std::pair<ActivationPolicy, double>, 3> policies = {
        {{ActivationPolicy::keep, 0.0},
         {ActivationPolicy::recompute_mlp, 0.5},
         {ActivationPolicy::recompute_layer, 1.0}}};
    const bool can_stream =
        request.boundary == Boundary::truncate || request.pattern == Pattern::full;
    std::vector<Candidate> list;
    const Index first = request.chunks > 0 ? request.chunks : 1;
    const Index last = request.chunks > 0 ? request.chunks : (can_stream ? most_chunks : 1);
    for (Index chunks = first; chunks <= last;
         chunks = request.chunks > 0 ? chunks + 1 : chunks * 2) {
        const Layout layout = layout_of(request, ranks, chunks);
        const bool is_sensible = request.chunks > 0 || chunks == 1 ||
                                 request.pattern == Pattern::full || layout.is_aligned();
        if (!divides(layout) || !is_sensible) {
            continue;
        }
        for (const auto& [policy, work] : policies) {
            if (!request.policy || *request.policy == policy) {
                const auto c = static_cast<double>(chunks);
                list.push_back({chunks, policy, work + (c - 1) / c});
            }
        }
    }
    std::stable_sort(list.begin(), list.end(),
                     [](const Candidate& a, const Candidate& b) { return a.work < b.work; });
    return list;
}

// What an earlier start has picked may not fit other ranks.
PlanRequest feasible(PlanRequest request, Index world) {
    const Index ranks =
        request.sequence_ranks > 0 ? request.sequence_ranks : choose_sequence_ranks(request, world);
    if (request.prefers_chunks && !divides(layout_of(request, ranks, request.chunks))) {
        request.chunks = 0;
    }
    return request;
}

int ranks_on_this_node(const Communicator<Cpu>& world) {
    const auto hosts = world.gather_texts(host_name());
    return static_cast<int>(std::count(hosts.begin(), hosts.end(), host_name()));
}

}  // namespace

RunPlan plan_run(const PlanRequest& wish, const Communicator<Cpu>& world) {
    const PlanRequest request = feasible(wish, world.size());
    const Index ranks = request.sequence_ranks > 0 ? request.sequence_ranks
                                                   : choose_sequence_ranks(request, world.size());
    const Layout first = layout_of(request, ranks, std::max<Index>(request.chunks, 1));
    check_layout(first);
    const int neighbours = ranks_on_this_node(world);
    const double available = world.min(on_device(
        request.device, [&](auto kind) { return available_memory<decltype(kind)>(neighbours); }));
    const Index sequence_rank = world.rank() % ranks;
    double least = 0;
    for (const Candidate& candidate : candidates(request, ranks)) {
        const Layout layout = layout_of(request, ranks, candidate.chunks);
        auto memory = on_device(request.device, [&](auto kind) {
            return plan_memory<decltype(kind)>(
                {request.config, request.tune, layout, candidate.policy}, sequence_rank,
                world.size());
        });
        const double needed = world.max(memory.total());
        if (needed <= available) {
            return {layout, candidate.policy, std::move(memory), available};
        }
        least = least == 0 ? needed : std::min(least, needed);
    }
    throw Error::of_all_ranks("not enough memory: a rank needs at least " + format_bytes(least) +
                                  " and may take " + format_bytes(available) +
                                  "; use more nodes, fewer ranks a node, or more sequence.chunks",
                              ExitCode::bad_input);
}

std::string policy_name(ActivationPolicy policy) {
    constexpr std::array<const char*, 3> names = {"keep", "recompute_mlp", "recompute_layer"};
    return names[static_cast<std::size_t>(policy)];
}

}  // namespace longlora
