#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/view.hpp"
#include "io/llama_config.hpp"
#include "io/safetensors.hpp"

namespace longlora {

// adapter_config.json of PEFT, the parts that this program computes: y = x W' + alpha / rank (x A') B'.
struct AdapterConfig {
    Index rank = 8;      // R
    double alpha = 16;   //
    double dropout = 0;  // [0, 1)
    // Of q_proj k_proj v_proj o_proj gate_proj up_proj down_proj, in that order.
    std::vector<std::string> targets;

    bool operator==(const AdapterConfig&) const = default;
};

// Another kind of adapter (DoRA, rsLoRA, patterns, biases, regular expressions...) is an Error that
// names file, key and value.
AdapterConfig parse_adapter_config(std::string_view json, const std::string& name);

// PEFT's name of a weight of the base model: "base_model.model." before it.
std::string adapter_name(const std::string& base_name);

// A (rank, in) and B (out, rank) of a linear layer, under their names in adapter_model.safetensors
// (base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight).
struct LoraPair {
    TensorShape a;
    TensorShape b;
};
// Of the layer whose weight is `base`; nothing where it is no target.
std::optional<LoraPair> lora_pair(const TensorShape& base, const AdapterConfig& adapter);

// A and B of every target of every layer, in the order of llama_tensors, A before B.
std::vector<TensorShape> adapter_tensors(const LlamaConfig& model, const AdapterConfig& adapter);

// A PEFT directory: LoRA matrices, and embeddings, norms and head where it has them
// (modules_to_save), under adapter_name(their name in the base).
class AdapterFiles {
public:
    static AdapterFiles open(const std::filesystem::path& directory);

    const std::string& name() const { return name_; }  // the directory, for messages
    const AdapterConfig& config() const { return config_; }
    bool has(const std::string& tensor) const { return file_.has(tensor); }

    // As ModelFiles::read; names are those in the file.
    void read(const TensorShape& tensor, Range rows, std::span<float> out) const;
    void read(const TensorShape& tensor, std::span<float> out) const;

    // Compares the file with the model: every A and B there with the right shape, all else an
    // embedding, norm or head of the base with its shape; with a tied head embed_tokens and lm_head
    // both or neither, and equal. All faults in one Error.
    void check(const LlamaConfig& model) const;

private:
    AdapterFiles(std::string name, AdapterConfig config, Safetensors file);
    void check_tied_head() const;

    std::string name_;
    AdapterConfig config_;
    Safetensors file_;
};

}  // namespace longlora
