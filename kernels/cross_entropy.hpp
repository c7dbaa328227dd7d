#pragma once

#include <cstdint>

#include "core/stream.hpp"

// loss[t] = log sum_v exp(logits[t,v]) - logits[t,label]     d_logits = (softmax - one-hot) scale
// A label of -100 is ignored: loss 0, d_logits 0.
namespace longlora {

constexpr std::int32_t ignored_label = -100;

template <class Device>
struct CrossEntropy {
    View<Device, float, 2> logits;               // (T, V); becomes d_logits where wants_gradient
    View<Device, const std::int32_t, 1> labels;  // (T)
    View<Device, float, 1> loss;                 // (T), not scaled
    float scale;                                 // 1 / n, n the labels of the whole step
    bool wants_gradient;
};

void cross_entropy(const Stream<Cpu>& stream, const CrossEntropy<Cpu>& op);

}  // namespace longlora
