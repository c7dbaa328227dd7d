#pragma once

#include "io/adapter.hpp"
#include "model/base_weights.hpp"
#include "model/parameters.hpp"

namespace longlora {

// First values of the trainables: embeddings, norms (and everything in mode full) from the base;
// A Kaiming-uniform with a = sqrt 5, that is uniform in +-1/sqrt(in), B zero; with an adapter (or null)
// its LoRA factors.
template <class Device>
void initialise_trainables(const Stream<Device>& stream, Parameters<Device>& parameters,
                           const BaseWeights& base, const AdapterFiles* adapter,
                           std::uint64_t seed);

}  // namespace longlora
