#include <cmath>

#include "kernels/adamw.hpp"
#include "kernels/cuda/parts.cuh"

namespace longlora {
namespace {

constexpr int width = part_width<float>;

struct Factors {
    float beta1;
    float beta2;
    float rest1;
    float rest2;
    float correction1;
    float correction2;
    float epsilon;
    float rate;
    float decay;
    float scale;
};

template <class Device>
Factors factors_of(const AdamwStep<Device>& op) {
    const auto t = static_cast<double>(op.step);
    return {.beta1 = static_cast<float>(op.beta1),
            .beta2 = static_cast<float>(op.beta2),
            .rest1 = static_cast<float>(1 - op.beta1),
            .rest2 = static_cast<float>(1 - op.beta2),
            .correction1 = static_cast<float>(1 / (1 - std::pow(op.beta1, t))),
            .correction2 = static_cast<float>(1 / std::sqrt(1 - std::pow(op.beta2, t))),
            .epsilon = static_cast<float>(op.epsilon),
            .rate = static_cast<float>(op.learning_rate),
            .decay = static_cast<float>(op.weight_decay),
            .scale = static_cast<float>(op.gradient_scale)};
}

// fmaf where the compiler might round either of two products: a parameter has the same bits on
// whichever rank, and in whichever part, it is computed.
template <class Device, bool is_packed>
__global__ void adamw_kernel(AdamwStep<Device> op, Factors f) {
    for_parts<width, is_packed>(1, op.weight.size(), [&](Index, const auto& part) {
        const auto gradient = part.load(op.gradient.data());
        auto weight = part.load(op.weight.data());
        auto first = part.load(op.first_moment.data());
        auto second = part.load(op.second_moment.data());
        for (int i = 0; i < width; ++i) {
            const float g = gradient[i] * f.scale;
            const float m = fmaf(f.beta1, first[i], f.rest1 * g);
            const float v = fmaf(f.beta2, second[i], f.rest2 * g * g);
            const float w = weight[i];
            first[i] = m;
            second[i] = v;
            weight[i] = w - f.rate * (m * f.correction1 / (sqrtf(v) * f.correction2 + f.epsilon) +
                                      f.decay * w);
        }
        part.store(op.weight.data(), weight);
        part.store(op.first_moment.data(), first);
        part.store(op.second_moment.data(), second);
    });
}

}  // namespace

template <class S>
void adamw_step(const Stream<CudaDevice<S>>& stream, const AdamwStep<CudaDevice<S>>& op) {
    using Device = CudaDevice<S>;
    const bool is_packed =
        are_packable<width>(op.weight, op.gradient, op.first_moment, op.second_moment);
    launch(stream, is_packed ? adamw_kernel<Device, true> : adamw_kernel<Device, false>,
           grid_for_parts(1, op.weight.size(), width), op, factors_of(op));
}

template void adamw_step(const Stream<Cuda>&, const AdamwStep<Cuda>&);
template void adamw_step(const Stream<CudaFloat>&, const AdamwStep<CudaFloat>&);

}  // namespace longlora
