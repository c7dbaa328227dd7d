#include "model/rotary.hpp"

#include <cmath>
#include <vector>

#include "core/device.hpp"

namespace longlora {

void rotary_table(const LlamaConfig& config, Index first_position, View<Cpu, float, 2> cosine,
                  View<Cpu, float, 2> sine) {
    const double factor = config.rope.type == "linear" ? config.rope.factor : 1.0;
    std::vector<double> frequency;
    for (Index i = 0; i < config.head_dim / 2; ++i) {
        frequency.push_back(std::pow(config.rope_theta, -2.0 * static_cast<double>(i) /
                                                            static_cast<double>(config.head_dim)));
    }
    for (Index t = 0; t < cosine.rows(); ++t) {
        const double position = static_cast<double>(first_position + t) / factor;
        for (Index i = 0; i < cosine.columns(); ++i) {
            const double angle = position * frequency[static_cast<std::size_t>(i)];
            cosine(t, i) = static_cast<float>(std::cos(angle));
            sine(t, i) = static_cast<float>(std::sin(angle));
        }
    }
}

}  // namespace longlora
