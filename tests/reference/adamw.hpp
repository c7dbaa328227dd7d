#pragma once

#include <cmath>
#include <vector>

namespace longlora::reference {

struct AdamwSettings {
    double learning_rate;
    double beta1;
    double beta2;
    double epsilon;
    double weight_decay;
    double gradient_scale;
};

template <class S>
struct AdamwState {
    std::vector<S> weight;
    std::vector<S> first_moment;
    std::vector<S> second_moment;
};

// One step as torch.optim.AdamW writes it: decay first, then the moments.
template <class S>
void adamw_step(const AdamwSettings& settings, int step, const std::vector<S>& gradient,
                AdamwState<S>& state) {
    const S correction1 = S(1 - std::pow(settings.beta1, step));
    const S correction2 = S(1 - std::pow(settings.beta2, step));
    const S rate = S(settings.learning_rate);
    for (std::size_t i = 0; i < gradient.size(); ++i) {
        const S g = gradient[i] * S(settings.gradient_scale);
        S& w = state.weight[i];
        S& m = state.first_moment[i];
        S& v = state.second_moment[i];
        w *= 1 - rate * S(settings.weight_decay);
        m = S(settings.beta1) * m + S(1 - settings.beta1) * g;
        v = S(settings.beta2) * v + S(1 - settings.beta2) * g * g;
        w -= rate * (m / correction1) / (std::sqrt(v / correction2) + S(settings.epsilon));
    }
}

}  // namespace longlora::reference
