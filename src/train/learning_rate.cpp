#include "train/learning_rate.hpp"

#include <cmath>
#include <numbers>

namespace longlora {

double learning_rate(const Options::Train& train, Index step) {
    if (step <= train.warmup_steps) {
        return train.learning_rate * static_cast<double>(step) /
               static_cast<double>(train.warmup_steps);
    }
    const double progress = static_cast<double>(step - train.warmup_steps) /
                            static_cast<double>(train.steps - train.warmup_steps);
    switch (train.schedule) {
        case choice::Schedule::constant:
            return train.learning_rate;
        case choice::Schedule::linear:
            return train.learning_rate * (1 - progress);
        case choice::Schedule::cosine:
            return train.learning_rate * 0.5 * (1 + std::cos(std::numbers::pi * progress));
    }
    return train.learning_rate;
}

}  // namespace longlora
