#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "comm/communicator.hpp"
#include "plan/memory.hpp"

namespace longlora {

// What the user fixed; 0 or nothing is left to the planner.
struct PlanRequest {
    LlamaConfig config;
    Tune tune;
    Index length;
    Index group;
    Pattern pattern;
    Boundary boundary;
    Index sequence_ranks = 0;
    Index chunks = 0;
    std::optional<ActivationPolicy> policy = std::nullopt;
    // What an earlier start picked, in the place of 0 and nothing as long as it still fits and takes no
    // ranks from a sequence.
    Index earlier_chunks = 0;
    std::optional<ActivationPolicy> earlier_policy = std::nullopt;
    bool keeps_what_fits = true;  // with recompute_mlp: as much of gate and up as fits
    // Bytes of the host's memory that a rank may take for gate and up that would be computed again; on the
    // CPU they would lie in the same memory, so nothing is offloaded.
    double offload = 0;
    // What lies on the device besides, by purpose, and of the host's memory.
    std::vector<std::pair<std::string, double>> besides = {};
    double besides_on_host = 0;
    DeviceKind device = DeviceKind::cpu;
};

// The layout and policy of a run, the same on all ranks, decided before the first step.
struct RunPlan {
    Layout layout;
    KeptActivations kept;
    double recomputed;        // part of all layers' tokens whose gate and up are computed again
    double offloaded;         // part whose gate and up wait on the host
    double recomputed_bytes;  // of the gate and up that are computed again, on a rank
    MemoryPlan memory;        // of this rank
    double available;         // of the rank that has least
};

// Picks the sequence ranks (the most that keep shards aligned), and the cheapest chunks and policies
// that fit the memory of the rank that has least. Throws Error (bad input, the same on all ranks)
// when the layout is impossible or nothing fits.
RunPlan plan_run(const PlanRequest& request, const Communicator<Cpu>& world);

std::string policy_name(ActivationPolicy policy);
// "recompute_mlp for 21.1 % of tokens, 63.3 % offloaded"
std::string kept_text(const RunPlan& plan);

}  // namespace longlora
