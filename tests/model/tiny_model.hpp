#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "core/random.hpp"
#include "model/llama.hpp"
#include "model/trainable_start.hpp"
#include "support/files.hpp"
#include "support/model_folder.hpp"

// A model that is small and has every feature: grouped queries, sizes that are no multiple of a
// vector, an MLP of another width, and weights large enough that each part of it matters.
namespace longlora::test {

inline LlamaConfig tiny_config() {
    LlamaConfig config;
    config.layers = 2;
    config.width = 14;
    config.heads = 4;
    config.kv_heads = 2;
    config.head_dim = 6;
    config.mlp_width = 19;
    config.vocabulary = 23;
    config.max_positions = 64;
    return config;
}

inline Tune tiny_tune() {
    Tune tune;
    tune.rank = 3;
    tune.alpha = 4.5;
    tune.targets = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"};
    return tune;
}

inline std::string config_json(const LlamaConfig& config) {
    const auto field = [](const std::string& key, Index value) {
        return "\"" + key + "\": " + std::to_string(value) + ",\n";
    };
    return "{\"model_type\": \"llama\",\n" + field("hidden_size", config.width) +
           field("intermediate_size", config.mlp_width) +
           field("num_hidden_layers", config.layers) + field("num_attention_heads", config.heads) +
           field("num_key_value_heads", config.kv_heads) + field("head_dim", config.head_dim) +
           field("vocab_size", config.vocabulary) +
           field("max_position_embeddings", config.max_positions) +
           "\"rope_scaling\": {\"type\": \"linear\", \"factor\": " +
           std::to_string(config.rope.factor) + "},\n" +
           "\"tie_word_embeddings\": " + (config.is_tied ? "true}" : "false}");
}

// Norms around 1, matrices that keep the size of what they multiply.
inline std::vector<NamedValues> lively_values(const LlamaConfig& config) {
    auto tensors = random_values(llama_tensors(config));
    for (NamedValues& tensor : tensors) {
        const bool is_norm = tensor.shape.columns == 0;
        const float spread =
            is_norm ? 0.3F : 1.0F / std::sqrt(static_cast<float>(tensor.shape.columns));
        for (float& value : tensor.values) {
            value = (is_norm ? 1.0F : 0.0F) + spread * value;
        }
    }
    return tensors;
}

inline BaseWeights lively_base(const LlamaConfig& config) {
    const TemporaryFolder folder;  // may go: what is mapped stays
    write_model(folder.path(), config_json(config), lively_values(config));
    return BaseWeights(ModelFiles::open(folder.path()));
}

// Parameters, weights and model, with B of LoRA not zero.
struct TinyModel {
    TinyModel(const LlamaConfig& model_config, const Tune& model_tune)
        : config(model_config),
          tune(model_tune),
          base(lively_base(config)),
          parameters(trainable_parameters(config, tune)),
          store(Stream<Cpu>(), base, tune, parameters),
          llama(config, tune, parameters, store) {
        initialise_trainables(Stream<Cpu>(), parameters, base, nullptr, 5);
        for (const Parameter& parameter : parameters.table()) {
            if (parameter.shape.name.find("lora_B") != std::string::npos) {
                fill(parameters.weight(parameter.shape.name).flat());
            }
        }
    }

    static void fill(View<Cpu, float, 1> values) {
        for (Index i = 0; i < values.size(); ++i) {
            values[i] = 0.3F * static_cast<float>(random_normal(77, static_cast<std::uint64_t>(i)));
        }
    }

    LlamaConfig config;
    Tune tune;
    BaseWeights base;
    Parameters<Cpu> parameters;
    WeightStore<Cpu> store;
    Llama<Cpu> llama;
};

}  // namespace longlora::test
