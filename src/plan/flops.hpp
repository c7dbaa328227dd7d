#pragma once

#include "io/llama_config.hpp"
#include "model/tune.hpp"
#include "sequence/left_context.hpp"

namespace longlora {

// Floating-point operations that one training row needs, recomputation not counted: 2 per
// multiply-add of each linear layer and of the head, forward and input gradient (and weight gradient
// where the weight is trained), LoRA's thin products, and attention's visible pairs (4 D forward,
// 10 D backward a pair and head).
double row_flops(const LlamaConfig& config, const Tune& tune, const Layout& layout);

}  // namespace longlora
