#pragma once

#include <cstdint>

#include "core/stream.hpp"

// x[t] = table[token[t]]; the gradient is in fixed_point.hpp
namespace longlora {

template <class Device>
struct EmbeddingForward {
    View<Device, const std::int32_t, 1> tokens;  // (T) in [0, V)
    View<Device, const float, 2> table;          // (V, E)
    View<Device, float, 2> x;                    // (T, E)
};

void embedding_forward(const Stream<Cpu>& stream, const EmbeddingForward<Cpu>& op);
template <class S>
void embedding_forward(const Stream<CudaDevice<S>>& stream,
                       const EmbeddingForward<CudaDevice<S>>& op);

}  // namespace longlora
