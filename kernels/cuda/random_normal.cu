#include <numbers>

#include "core/random.hpp"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/random_normal.hpp"

namespace longlora {
namespace {

constexpr int random_threads = 256;

// As random_normal of core/random.cpp.
template <class Device, class T>
__global__ void random_normal_kernel(RandomNormal<Device, T> op) {
    const Index i = Index{blockIdx.x} * random_threads + threadIdx.x;
    if (i >= op.out.size()) {
        return;
    }
    const auto index = static_cast<std::uint64_t>(i);
    const double radius = sqrt(-2.0 * log(1.0 - random_uniform(op.key, 2 * index)));
    const double angle = 2.0 * std::numbers::pi * random_uniform(op.key, 2 * index + 1);
    store(op.out.data() + i, static_cast<float>(op.deviation * (radius * cos(angle))));
}

template <class Device, class T>
void start(const Stream<Device>& stream, const RandomNormal<Device, T>& op) {
    launch(stream, random_normal_kernel<Device, T>, grid_for(op.out.size(), random_threads), op);
}

}  // namespace

template <class S>
void random_normal(const Stream<CudaDevice<S>>& stream,
                   const RandomNormal<CudaDevice<S>, float>& op) {
    start(stream, op);
}
template <class S>
void random_normal(const Stream<CudaDevice<S>>& stream,
                   const RandomNormal<CudaDevice<S>, BFloat16>& op) {
    start(stream, op);
}

template void random_normal(const Stream<Cuda>&, const RandomNormal<Cuda, float>&);
template void random_normal(const Stream<Cuda>&, const RandomNormal<Cuda, BFloat16>&);
template void random_normal(const Stream<CudaFloat>&, const RandomNormal<CudaFloat, float>&);
template void random_normal(const Stream<CudaFloat>&, const RandomNormal<CudaFloat, BFloat16>&);

}  // namespace longlora
