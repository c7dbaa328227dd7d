#pragma once

#include <cstdint>

#include "core/stream.hpp"

// x[t] = table[token[t]]          d_table[token[t]] += d_x[t]
namespace longlora {

template <class Device>
struct EmbeddingForward {
    View<Device, const std::int32_t, 1> tokens;  // (T) in [0, V)
    View<Device, const float, 2> table;          // (V, E)
    View<Device, float, 2> x;                    // (T, E)
};

template <class Device>
struct EmbeddingBackward {
    View<Device, const std::int32_t, 1> tokens;  // (T)
    View<Device, const float, 2> d_x;            // (T, E)
    View<Device, float, 2> d_table;              // (V, E) accumulated in token order
};

void embedding_forward(const Stream<Cpu>& stream, const EmbeddingForward<Cpu>& op);
void embedding_backward(const Stream<Cpu>& stream, const EmbeddingBackward<Cpu>& op);

}  // namespace longlora
