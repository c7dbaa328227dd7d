#include "kernels/adamw.hpp"

#include <cmath>

namespace longlora {

void adamw_step(const Stream<Cpu>& stream, const AdamwStep<Cpu>& op) {
    const auto t = static_cast<double>(op.step);
    const auto beta1 = static_cast<float>(op.beta1);
    const auto beta2 = static_cast<float>(op.beta2);
    const auto rest1 = static_cast<float>(1 - op.beta1);
    const auto rest2 = static_cast<float>(1 - op.beta2);
    const auto correction1 = static_cast<float>(1 / (1 - std::pow(op.beta1, t)));
    const auto correction2 = static_cast<float>(1 / std::sqrt(1 - std::pow(op.beta2, t)));
    const auto epsilon = static_cast<float>(op.epsilon);
    const auto rate = static_cast<float>(op.learning_rate);
    const auto decay = static_cast<float>(op.weight_decay);
    const auto scale = static_cast<float>(op.gradient_scale);
    parallel_blocks(stream, op.weight.size(), 1 << 15, [&](Range range) {
        const float* gradient = op.gradient.data();
        float* weight = op.weight.data();
        float* first = op.first_moment.data();
        float* second = op.second_moment.data();
        for (Index i = range.begin; i < range.end; ++i) {
            const float g = gradient[i] * scale;
            const float m = beta1 * first[i] + rest1 * g;
            const float v = beta2 * second[i] + rest2 * g * g;
            const float w = weight[i];
            first[i] = m;
            second[i] = v;
            weight[i] =
                w - rate * (m * correction1 / (std::sqrt(v) * correction2 + epsilon) + decay * w);
        }
    });
}

}  // namespace longlora
