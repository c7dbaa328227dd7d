#pragma once

#include <cstdint>

#include "core/stream.hpp"

// loss[t] = log sum_v exp(logits[t,v]) - logits[t,label]     d_logits = (softmax - one-hot) scale
// A label of -100 is ignored: loss 0, d_logits 0.
namespace longlora {

constexpr std::int32_t ignored_label = -100;

template <class Device>
struct CrossEntropy {
    View<Device, const float, 2> logits;         // (T, V)
    View<Device, const std::int32_t, 1> labels;  // (T)
    View<Device, float, 1> loss;                 // (T), not scaled
    float scale;                                 // 1 / n, n the labels of the whole step
    bool wants_gradient;
    View<Device, Element<Device>, 2> d_logits;  // (T, V) where wants_gradient; may be the logits'
                                                // own memory where it has their type
};

void cross_entropy(const Stream<Cpu>& stream, const CrossEntropy<Cpu>& op);
template <class S>
void cross_entropy(const Stream<CudaDevice<S>>& stream, const CrossEntropy<CudaDevice<S>>& op);

// sum[0] += round(loss[t] 2^26), integers, so that sums up to 10^8 labels are exact in any order;
// sum[1] += losses that are negative, beyond 2^16 or not numbers.
template <class Device>
struct LossSum {
    View<Device, const float, 1> loss;  // (T)
    View<Device, std::int64_t, 1> sum;  // (2)
};
constexpr double loss_one = 1 << 26;

void loss_sum(const Stream<Cpu>& stream, const LossSum<Cpu>& op);
template <class S>
void loss_sum(const Stream<CudaDevice<S>>& stream, const LossSum<CudaDevice<S>>& op);

}  // namespace longlora
