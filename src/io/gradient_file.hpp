#pragma once

#include <span>
#include <string>

#include "io/checkpoint_file.hpp"

namespace longlora {

// train.dump_gradients: /gradients/<name> float32 and the scalar /loss, written by one process from
// the full flat gradient.
void write_gradients(const std::string& path, std::span<const CheckpointTensor> tensors,
                     std::span<const float> gradient, double loss);

}  // namespace longlora
