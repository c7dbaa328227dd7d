#pragma once

#include <string>
#include <vector>

namespace longlora {

// What kernels/cuda/hopper/machine.cuh takes for granted of the machine, one thing at a time: each relies
// on those before it only. `broken` tells what was seen instead; empty: it holds.
struct Assumption {
    std::string text;
    std::string (*broken)();
};

std::vector<Assumption> assumptions_of_copies();
std::vector<Assumption> assumptions_of_products();
std::vector<Assumption> assumptions_of_chains();

}  // namespace longlora
