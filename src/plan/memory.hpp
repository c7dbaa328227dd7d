#pragma once

#include <string>
#include <utility>
#include <vector>

#include "io/llama_config.hpp"
#include "model/activations.hpp"
#include "sequence/layout.hpp"

namespace longlora {

// Bytes that one rank will hold, by purpose. The parts that scale are not estimated: the code that
// allocates them runs on a measuring arena.
struct MemoryPlan {
    std::vector<std::pair<std::string, double>> parts;
    double host = 0;  // of the host's memory, pinned, where the rest lies on a GPU

    double total() const;
};

// What decides the memory of a run.
struct Workload {
    const LlamaConfig& config;
    const Tune& tune;
    Layout layout;
    KeptActivations kept;
};

// On one rank's device. sequence_rank: kept K/V differ between ranks by a border at most.
template <class Device>
MemoryPlan plan_memory(const Workload& work, Index sequence_rank, int world);

// Memory that each of `sharing` ranks may take: those of a host of what is available there, those of a GPU
// of what is free on it.
template <class Device>
double available_memory(int sharing);

}  // namespace longlora
