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

// Extra forwards: recomputing the MLP of a layer costs about half of the layer's, a whole layer one.
double extra_work(ActivationPolicy policy) {
    constexpr std::array<double, 3> work = {0.0, 0.5, 1.0};
    return work[static_cast<std::size_t>(policy)];
}
double extra_work(Index chunks) {
    return static_cast<double>(chunks - 1) / static_cast<double>(chunks);
}

struct Candidate {
    Index chunks;
    ActivationPolicy policy;
    double least_work;  // extra forwards, if everything that may be kept fits
};

std::vector<Candidate> candidates(const PlanRequest& request, Index ranks) {
    constexpr std::array<ActivationPolicy, 3> policies = {
        ActivationPolicy::keep, ActivationPolicy::recompute_mlp, ActivationPolicy::recompute_layer};
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
        for (const ActivationPolicy policy : policies) {
            if (!request.policy || *request.policy == policy) {
                const bool may_keep_all = policy == ActivationPolicy::recompute_mlp &&
                                          (request.keeps_what_fits || request.offload > 0);
                list.push_back(
                    {chunks, policy, extra_work(chunks) + (may_keep_all ? 0 : extra_work(policy))});
            }
        }
    }
    std::stable_sort(list.begin(), list.end(), [](const Candidate& a, const Candidate& b) {
        return a.least_work < b.least_work;
    });
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

// What the candidates are measured with: on this rank's device, decided together.
class Fitting {
public:
    Fitting(const PlanRequest& request, Index ranks, const Communicator<Cpu>& world)
        : request_(request),
          world_(world),
          ranks_(ranks),
          neighbours_(ranks_on_this_node(world)),
          available_(world.min(
              on_device(request.device,
                        [&](auto kind) { return available_memory<decltype(kind)>(neighbours_); }))),
          host_(world.min(available_memory<Cpu>(neighbours_))) {}

    double available() const { return available_; }
    double needed(const MemoryPlan& memory) const { return world_.max(memory.total()); }
    bool fits(const MemoryPlan& memory) const {
        return needed(memory) <= available_ && world_.max(memory.host) <= host_;
    }

    RunPlan plan(Index chunks, const KeptActivations& kept) const {
        const Layout layout = layout_of(request_, ranks_, chunks);
        auto memory = on_device(request_.device, [&](auto kind) {
            return plan_memory<decltype(kind)>({request_.config, request_.tune, layout, kept},
                                               world_.rank() % ranks_, world_.size());
        });
        return {layout, kept, std::move(memory), available_};
    }

    // The same with gate and up of as many layers as fit, and of the others what the host may take.
    RunPlan fill(const RunPlan& lean) const {
        return offload(request_.keeps_what_fits ? keep_what_fits(lean) : lean);
    }

    double work(const RunPlan& plan) const {
        const auto layers = static_cast<double>(request_.config.layers);
        const auto kept = static_cast<double>(plan.kept.mlps);
        const double offloaded = static_cast<double>(plan.kept.offloaded) /
                                 static_cast<double>(plan.layout.shard_length());
        const double saved = (kept + (layers - kept) * offloaded) / layers;
        return extra_work(plan.layout.chunks) + extra_work(plan.kept.policy) * (1 - saved);
    }

private:
    RunPlan keep_what_fits(const RunPlan& lean) const {
        const Index layers = request_.config.layers;
        const double least = needed(lean.memory);
        const double one = needed(plan(lean.layout.chunks, {lean.kept.policy, 1}).memory) - least;
        const auto fit = static_cast<Index>((available_ - least) / std::max(one, 1.0));
        return plan(lean.layout.chunks, {lean.kept.policy, std::clamp<Index>(fit, 0, layers)});
    }

    // Slots take a part of what layers had, which may be more than is won.
    RunPlan offload(const RunPlan& plan) const {
        if (request_.offload == 0 || request_.device == DeviceKind::cpu ||
            plan.kept.mlps == request_.config.layers) {
            return plan;
        }
        KeptActivations kept = plan.kept;
        kept.offloaded = 1;
        while (kept.mlps > 0 && !fits(this->plan(plan.layout.chunks, kept).memory)) {
            --kept.mlps;
        }
        const double host = world_.max(plan.memory.host);
        const double one = world_.max(this->plan(plan.layout.chunks, kept).memory.host) - host;
        const double tokens = std::min(request_.offload, host_ - host) / std::max(one, 1.0);
        kept.offloaded = whole_tiles(plan.layout, tokens);
        RunPlan result = this->plan(plan.layout.chunks, kept);
        const bool is_better = fits(result.memory) && work(result) < work(plan);
        return is_better ? result : plan;
    }

    // The most of a shard's tokens, at most so many.
    Index whole_tiles(const Layout& layout, double most) const {
        const Index shard = layout.shard_length();
        const Index tile = on_device(request_.device, [&](auto kind) {
            return layer_shape<decltype(kind)>(request_.config, request_.tune, shard, true)
                .mlp_tile;
        });
        return most >= static_cast<double>(shard) ? shard : static_cast<Index>(most) / tile * tile;
    }

    const PlanRequest& request_;
    const Communicator<Cpu>& world_;
    Index ranks_;
    int neighbours_;
    double available_;
    double host_;
};

}  // namespace

RunPlan plan_run(const PlanRequest& wish, const Communicator<Cpu>& world) {
    const PlanRequest request = feasible(wish, world.size());
    const Index ranks = request.sequence_ranks > 0 ? request.sequence_ranks
                                                   : choose_sequence_ranks(request, world.size());
    const Layout first = layout_of(request, ranks, std::max<Index>(request.chunks, 1));
    check_layout(first);
    const Fitting fitting(request, ranks, world);
    std::optional<RunPlan> best;
    double least = 0;
    for (const Candidate& candidate : candidates(request, ranks)) {
        if (best && fitting.work(*best) <= candidate.least_work) {
            break;
        }
        RunPlan plan = fitting.plan(candidate.chunks, candidate.policy);
        const double needed = fitting.needed(plan.memory);
        least = least == 0 ? needed : std::min(least, needed);
        if (!fitting.fits(plan.memory)) {
            continue;
        }
        if (candidate.policy == ActivationPolicy::recompute_mlp) {
            plan = fitting.fill(plan);
        }
        if (!best || fitting.work(plan) < fitting.work(*best)) {
            best = std::move(plan);
        }
    }
    if (best) {
        return std::move(*best);
    }
    throw Error::of_all_ranks("not enough memory: a rank needs at least " + format_bytes(least) +
                                  " and may take " + format_bytes(fitting.available()) +
                                  "; use more nodes, fewer ranks a node, or more sequence.chunks",
                              ExitCode::bad_input);
}

std::string kept_text(const KeptActivations& kept, Index layers) {
    std::string text = policy_name(kept.policy);
    if (kept.mlps > 0 || kept.offloaded > 0) {
        text += ", in " + std::to_string(layers - kept.mlps) + " of " + std::to_string(layers) +
                " layers";
    }
    if (kept.offloaded > 0) {
        text += ", " + std::to_string(kept.offloaded) + " tokens of each offloaded";
    }
    return text;
}

std::string policy_name(ActivationPolicy policy) {
    constexpr std::array<const char*, 3> names = {"keep", "recompute_mlp", "recompute_layer"};
    return names[static_cast<std::size_t>(policy)];
}

}  // namespace longlora
