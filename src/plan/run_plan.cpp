#include "plan/run_plan.hpp"

#include <algorithm>
#include <array>
#include <limits>

#include "comm/environment.hpp"
#include "core/cuda_device.hpp"
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

Index sequence_ranks_of(const PlanRequest& request, Index world) {
    return request.sequence_ranks > 0 ? request.sequence_ranks
                                      : choose_sequence_ranks(request, world);
}

// Nobody fixed what an earlier start has picked.
PlanRequest as_before(PlanRequest request) {
    request.chunks = request.chunks > 0 ? request.chunks : request.earlier_chunks;
    request.policy = request.policy ? request.policy : request.earlier_policy;
    return request;
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

// Ranks that have the same memory as this one: of its host, or of its GPU.
int sharing_ranks(const Communicator<Cpu>& world, DeviceKind device) {
    const std::string place = host_name() + (device == DeviceKind::cpu ? "" : " " + cuda_bus());
    const auto places = world.gather_texts(place);
    return static_cast<int>(std::count(places.begin(), places.end(), place));
}

// What the rank that has least may take.
double least_memory(const Communicator<Cpu>& world, DeviceKind device) {
    const int sharing = sharing_ranks(world, device);
    return world.min(
        on_device(device, [&](auto kind) { return available_memory<decltype(kind)>(sharing); }));
}

// What the candidates are measured with: on this rank's device, decided together.
class Fitting {
public:
    Fitting(const PlanRequest& request, Index ranks, const Communicator<Cpu>& world)
        : request_(request),
          world_(world),
          ranks_(ranks),
          available_(least_memory(world, request.device)),
          host_(least_memory(world, DeviceKind::cpu)) {}

    double available() const { return available_; }
    double available_on_host() const { return host_; }
    // Of the rank that needs most.
    double needed(const MemoryPlan& memory) const { return world_.max(memory.total()); }
    double needed_on_host(const MemoryPlan& memory) const { return world_.max(memory.host); }
    bool fits(const MemoryPlan& memory) const {
        return needed(memory) <= available_ && needed_on_host(memory) <= host_;
    }

    RunPlan plan(Index chunks, const KeptActivations& kept) const {
        const Layout layout = layout_of(request_, ranks_, chunks);
        auto memory = on_device(request_.device, [&](auto kind) {
            return plan_memory<decltype(kind)>({request_.config, request_.tune, layout, kept},
                                               world_.rank() % ranks_, world_.size());
        });
        memory.parts.insert(memory.parts.end(), request_.besides.begin(), request_.besides.end());
        memory.host += request_.besides_on_host;
        const LayerShape shape = shape_of(layout);
        const double recomputed = shape.recomputed_part(kept);
        return {layout,
                kept,
                recomputed,
                shape.offloaded_part(kept),
                recomputed * mlp_bytes(shape),
                std::move(memory),
                available_};
    }

    // The same with as much of gate and up as fits, and of the others what the host may take.
    RunPlan fill(const RunPlan& lean) const {
        return offload(request_.keeps_what_fits ? keep_what_fits(lean) : lean);
    }

    double work(const RunPlan& plan) const {
        const bool is_partial = plan.kept.policy == ActivationPolicy::recompute_mlp;
        return extra_work(plan.layout.chunks) +
               extra_work(plan.kept.policy) * (is_partial ? plan.recomputed : 1);
    }

private:
    LayerShape shape_of(const Layout& layout) const {
        return on_device(request_.device, [&](auto kind) {
            return layer_shape<decltype(kind)>(request_.config, request_.tune,
                                               layout.shard_length(), true);
        });
    }

    // gate and up of all layers.
    double mlp_bytes(const LayerShape& shape) const {
        const auto elements = static_cast<double>(2 * shape.config.layers * shape.tokens *
                                                  (shape.config.mlp_width + shape.mlp_fold));
        return on_device(request_.device, [&](auto kind) {
            return elements * static_cast<double>(sizeof(Element<decltype(kind)>));
        });
    }

    Index tiles_of(const Layout& layout) const {
        return shape_of(layout).mlp_tiles() * request_.config.layers;
    }

    // The largest n up to `all` that is possible: what is smaller must be possible, too, and 0 is.
    template <class Possible>
    static Index most(Index all, const Possible& possible) {
        Index least = 0;
        while (least < all) {
            const Index middle = least + (all - least + 1) / 2;
            if (possible(middle)) {
                least = middle;
            } else {
                all = middle - 1;
            }
        }
        return least;
    }

    RunPlan keep_what_fits(const RunPlan& lean) const {
        KeptActivations kept = lean.kept;
        kept.tiles = most(tiles_of(lean.layout), [&](Index tiles) {
            return fits(plan(lean.layout.chunks, {kept.policy, tiles}).memory);
        });
        return plan(lean.layout.chunks, kept);
    }

    // Slots take a part of what tiles had, which may be more than is won.
    RunPlan offload(const RunPlan& before) const {
        if (request_.offload == 0 || request_.device == DeviceKind::cpu || before.recomputed == 0) {
            return before;
        }
        KeptActivations kept = before.kept;
        const auto with = [&](Index tiles, Index offloaded) {
            kept.tiles = tiles;
            kept.offloaded = offloaded;
            return plan(before.layout.chunks, kept);
        };
        const Index tiles = most(
            kept.tiles, [&](Index count) { return needed(with(count, 1).memory) <= available_; });
        const double on_host = needed_on_host(before.memory);
        const Index offloaded = most(tiles_of(before.layout) - tiles, [&](Index count) {
            const RunPlan plan = with(tiles, count);
            return needed_on_host(plan.memory) - on_host <= request_.offload && fits(plan.memory);
        });
        RunPlan result = with(tiles, offloaded);
        return offloaded > 0 && work(result) < work(before) ? result : before;
    }

    const PlanRequest& request_;
    const Communicator<Cpu>& world_;
    Index ranks_;
    double available_;  // of the rank that has least

    double host_;
};

// Of all candidates the one that fits and computes least again.
class Search {
public:
    Search(const PlanRequest& request, Index ranks, const Communicator<Cpu>& world)
        : request_(request), ranks_(ranks), fitting_(request_, ranks, world) {}

    std::optional<RunPlan> run() {
        std::optional<RunPlan> best;
        for (const Candidate& candidate : candidates(request_, ranks_)) {
            if (best && fitting_.work(*best) <= candidate.least_work) {
                break;
            }
            RunPlan plan = fitting_.plan(candidate.chunks, candidate.policy);
            note_needs(plan.memory);
            if (!fitting_.fits(plan.memory)) {
                continue;
            }
            if (candidate.policy == ActivationPolicy::recompute_mlp) {
                plan = fitting_.fill(plan);
            }
            if (!best || fitting_.work(plan) < fitting_.work(*best)) {
                best = std::move(plan);
            }
        }
        return best;
    }

    // After a run() that has found nothing.
    std::string what_is_missing() const {
        if (least_ > fitting_.available()) {
            return "a rank needs at least " + format_bytes(least_) + " and may take " +
                   format_bytes(fitting_.available()) +
                   "; use more nodes, fewer ranks a node, or more sequence.chunks";
        }
        return "a rank needs at least " + format_bytes(least_on_host_) +
               " of its host's memory and may take " + format_bytes(fitting_.available_on_host()) +
               "; use more nodes, fewer ranks a node, or fewer sequence.chunks";
    }

private:
    void note_needs(const MemoryPlan& memory) {
        const double needed = fitting_.needed(memory);
        least_ = std::min(least_, needed);
        if (needed <= fitting_.available()) {
            least_on_host_ = std::min(least_on_host_, fitting_.needed_on_host(memory));
        }
    }

    PlanRequest request_;
    Index ranks_;
    Fitting fitting_;
    double least_ = std::numeric_limits<double>::infinity();
    double least_on_host_ = std::numeric_limits<double>::infinity();  // where the rest fits
};

}  // namespace

RunPlan plan_run(const PlanRequest& request, const Communicator<Cpu>& world) {
    const Index ranks = sequence_ranks_of(request, world.size());
    check_layout(layout_of(request, ranks, std::max<Index>(request.chunks, 1)));
    const PlanRequest before = as_before(request);
    const bool is_other = before.chunks != request.chunks || before.policy != request.policy;
    if (is_other && sequence_ranks_of(before, world.size()) == ranks) {
        if (auto plan = Search(before, ranks, world).run()) {
            return std::move(*plan);
        }
    }
    Search search(request, ranks, world);
    if (auto plan = search.run()) {
        return std::move(*plan);
    }
    throw Error::of_all_ranks("not enough memory: " + search.what_is_missing(),
                              ExitCode::bad_input);
}

std::string kept_text(const RunPlan& plan) {
    std::string text = policy_name(plan.kept.policy);
    const auto percent = [](double part) { return format_number(100 * part, 3) + " %"; };
    if (plan.kept.tiles > 0 || plan.kept.offloaded > 0) {
        text += " for " + percent(plan.recomputed) + " of tokens";
    }
    if (plan.offloaded > 0) {
        text += ", " + percent(plan.offloaded) + " offloaded";
    }
    return text;
}

std::string policy_name(ActivationPolicy policy) {
    constexpr std::array<const char*, 3> names = {"keep", "recompute_mlp", "recompute_layer"};
    return names[static_cast<std::size_t>(policy)];
}

}  // namespace longlora
