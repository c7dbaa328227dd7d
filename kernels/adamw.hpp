#pragma once

#include "core/stream.hpp"

// m = b1 m + (1 - b1) g     v = b2 v + (1 - b2) g^2     w -= lr (m^ / (sqrt(v^) + eps) + decay w)
// m^ = m / (1 - b1^t), v^ = v / (1 - b2^t); g is the gradient times gradient_scale (clipping).
//                                                                    (Loshchilov, Hutter 2019)
namespace longlora {

template <class Device>
struct AdamwStep {
    View<Device, float, 1> weight;
    View<Device, const float, 1> gradient;
    View<Device, float, 1> first_moment;
    View<Device, float, 1> second_moment;
    double learning_rate;
    double beta1;
    double beta2;
    double epsilon;
    double weight_decay;    // 0 for vectors
    double gradient_scale;  // min(1, clip / (norm + 1e-6))
    Index step;             // t, 1-based
};

void adamw_step(const Stream<Cpu>& stream, const AdamwStep<Cpu>& op);
template <class S>
void adamw_step(const Stream<CudaDevice<S>>& stream, const AdamwStep<CudaDevice<S>>& op);

}  // namespace longlora
