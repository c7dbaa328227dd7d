#pragma once

#include <cstdint>

#include "core/stream.hpp"

// Sums whose bits do not depend on the order of their addends (mathematics.md, section 7): each
// addend is rounded to a multiple of 2^-48, and 64-bit integers are added. Range +-32768.
namespace longlora {

constexpr double fixed_point_one = 281474976710656.0;  // 2^48
constexpr double fixed_point_range = 32768.0;

// sum += round(x 2^48)
template <class Device>
struct FixedPointAdd {
    View<Device, const float, 1> x;
    View<Device, std::int64_t, 1> sum;
    float largest;                          // what |x| may be, so that no sum can overflow
    View<Device, std::int64_t, 1> refused;  // (1) += addends that are larger, or not numbers
};

// out = sum 2^-48
template <class Device>
struct FixedPointValue {
    View<Device, const std::int64_t, 1> sum;
    View<Device, float, 1> out;
};

// sum[token[t]] += round(d_x[t] 2^48): the gradient of an embedding table.
template <class Device>
struct EmbeddingGradient {
    View<Device, const std::int32_t, 1> tokens;  // (T)
    View<Device, const float, 2> d_x;            // (T, E)
    View<Device, std::int64_t, 2> sum;           // (V, E)
    float largest;
    View<Device, std::int64_t, 1> refused;  // (1)
};

void fixed_point_add(const Stream<Cpu>& stream, const FixedPointAdd<Cpu>& op);
template <class S>
void fixed_point_add(const Stream<CudaDevice<S>>& stream, const FixedPointAdd<CudaDevice<S>>& op);
void fixed_point_value(const Stream<Cpu>& stream, const FixedPointValue<Cpu>& op);
template <class S>
void fixed_point_value(const Stream<CudaDevice<S>>& stream,
                       const FixedPointValue<CudaDevice<S>>& op);
void embedding_gradient(const Stream<Cpu>& stream, const EmbeddingGradient<Cpu>& op);
template <class S>
void embedding_gradient(const Stream<CudaDevice<S>>& stream,
                        const EmbeddingGradient<CudaDevice<S>>& op);

}  // namespace longlora
