#include <cassert>

#include "kernels/cuda/atomic.cuh"
#include "kernels/cuda/parts.cuh"
#include "kernels/fixed_point.hpp"

namespace longlora {
namespace {

// Halves away from zero, as on the CPU: the product and, below 2^52, the sum with 1/2 are exact in
// double; from there on every float is an integer already.
__device__ std::int64_t rounded(float x) {
    const double value = static_cast<double>(x) * fixed_point_one;
    return static_cast<std::int64_t>(value + (value < 0 ? -0.5 : 0.5));
}

// What is added to a sum; what is refused adds 0, and is counted. It is rare while a run is sound.
__device__ std::int64_t addend(float x, float largest, std::int64_t* refused) {
    if (x <= largest && x >= -largest) {  // false for NaN
        return rounded(x);
    }
    add_atomically(refused, 1);
    return 0;
}

template <class Device>
__global__ void fixed_point_add_kernel(FixedPointAdd<Device> op) {
    for_parts<1, true>(1, op.x.size(), [&](Index, const auto& part) {
        const Index i = part.first;
        op.sum.data()[i] += addend(op.x.data()[i], op.largest, op.refused.data());
    });
}

template <class Device>
__global__ void fixed_point_value_kernel(FixedPointValue<Device> op) {
    for_parts<1, true>(1, op.sum.size(), [&](Index, const auto& part) {
        const Index i = part.first;
        op.out.data()[i] =
            static_cast<float>(static_cast<double>(op.sum.data()[i]) / fixed_point_one);
    });
}

// Tokens that are the same meet in one row of the sum.
template <class Device>
__global__ void embedding_gradient_kernel(EmbeddingGradient<Device> op) {
    for_parts<1, true>(op.d_x.rows(), op.d_x.columns(), [&](Index t, const auto& part) {
        const Index e = part.first;
        std::int64_t* const sum = op.sum.row(op.tokens[t]) + e;
        add_atomically(sum, addend(op.d_x.row(t)[e], op.largest, op.refused.data()));
    });
}

}  // namespace

template <class S>
void fixed_point_add(const Stream<CudaDevice<S>>& stream, const FixedPointAdd<CudaDevice<S>>& op) {
    assert(op.x.size() == op.sum.size());
    launch(stream, fixed_point_add_kernel<CudaDevice<S>>, grid_for_parts(1, op.x.size(), 1), op);
}

template <class S>
void fixed_point_value(const Stream<CudaDevice<S>>& stream,
                       const FixedPointValue<CudaDevice<S>>& op) {
    assert(op.sum.size() == op.out.size());
    launch(stream, fixed_point_value_kernel<CudaDevice<S>>, grid_for_parts(1, op.sum.size(), 1),
           op);
}

template <class S>
void embedding_gradient(const Stream<CudaDevice<S>>& stream,
                        const EmbeddingGradient<CudaDevice<S>>& op) {
    launch(stream, embedding_gradient_kernel<CudaDevice<S>>,
           grid_for_parts(op.d_x.rows(), op.d_x.columns(), 1), op);
}

template void fixed_point_add(const Stream<Cuda>&, const FixedPointAdd<Cuda>&);
template void fixed_point_add(const Stream<CudaFloat>&, const FixedPointAdd<CudaFloat>&);
template void fixed_point_value(const Stream<Cuda>&, const FixedPointValue<Cuda>&);
template void fixed_point_value(const Stream<CudaFloat>&, const FixedPointValue<CudaFloat>&);
template void embedding_gradient(const Stream<Cuda>&, const EmbeddingGradient<Cuda>&);
template void embedding_gradient(const Stream<CudaFloat>&, const EmbeddingGradient<CudaFloat>&);

}  // namespace longlora
