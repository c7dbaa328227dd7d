#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/view.hpp"
#include "io/tensor_shape.hpp"

namespace longlora {

struct RopeScaling {
    std::string type = "none";  // none | linear
    double factor = 1;          // target / original context; linear divides positions by it

    bool operator==(const RopeScaling&) const = default;
};

// What config.json of a LLaMA model says. Letters as in mathematics.md.
struct LlamaConfig {
    Index layers = 0;         // L
    Index width = 0;          // E   hidden_size
    Index heads = 0;          // H   query heads
    Index kv_heads = 0;       // Hkv divides H
    Index head_dim = 0;       // D   even; E / H unless the file says otherwise
    Index mlp_width = 0;      // F   intermediate_size
    Index vocabulary = 0;     // V
    Index max_positions = 0;  //     the context that the model was trained for
    double rms_epsilon = 1e-6;
    double rope_theta = 10000;
    RopeScaling rope;
    bool is_tied = false;   // the head is the embedding matrix
    std::int64_t bos = -1;  // token ids, -1 = none
    std::int64_t eos = -1;

    bool operator==(const LlamaConfig&) const = default;
};

// The two tensors of V rows; a tied head is the first of them.
inline constexpr const char* embedding_name = "model.embed_tokens.weight";
inline constexpr const char* head_name = "lm_head.weight";

// config.json as transformers 4 and 5 write it, with transformers' defaults. Whatever this program
// does not compute (another architecture, biases, other rope types, quantisation) is refused by an
// Error that names file, key and value.
LlamaConfig parse_llama_config(std::string_view json, const std::string& name);

// Sizes positive and within bounds, H a multiple of Hkv, D even, factors sensible; for configurations
// that come from options too. `name` is where they come from.
void check_llama_config(const LlamaConfig& config, const std::string& name);

// Every tensor of the model under its name in model.safetensors, in a fixed order: embeddings, layers
// from the first, final norm, head. A tied head is left out.
std::vector<TensorShape> llama_tensors(const LlamaConfig& config);

}  // namespace longlora
