#pragma once

#include "core/device.hpp"
#include "core/view.hpp"
#include "io/llama_config.hpp"

namespace longlora {

// cos and sin of angle_i(p) = p / factor * theta^(-2i/D) for the positions first, first + 1, ...,
// computed in double: a position of a million keeps its angle. factor is linear interpolation's
// (Chen et al. 2023); rope.type none leaves positions alone.
void rotary_table(const LlamaConfig& config, Index first_position, View<Cpu, float, 2> cosine,
                  View<Cpu, float, 2> sine);

}  // namespace longlora
