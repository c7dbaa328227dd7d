#include "io/llama_config.hpp"

#include <cmath>

#include "core/error.hpp"
#include "io/json.hpp"

namespace longlora {
namespace {

// Larger than any model; they keep products of two sizes, and the list of tensors, within bounds.
constexpr Index largest_size = 0x7fffffff;
constexpr Index most_layers = 10'000;

bool is_given(const Json& json, const std::string& key) {
    return json.contains(key) && !json.at(key).is_null();
}

void refuse_unsupported(const Json& json, const std::string& name) {
    const std::string type = json_string(json, "model_type", name, "llama");
    require(type == "llama", name + ": \"model_type\" is \"" + type +
                                 "\", but only \"llama\" models are supported; choose one");
    const std::string activation = json_string(json, "hidden_act", name, "silu");
    require(activation == "silu", name + ": \"hidden_act\" is \"" + activation +
                                      "\", but only \"silu\" is supported; choose a LLaMA model");
    for (const char* key : {"attention_bias", "mlp_bias"}) {
        require(!json_bool(json, key, name, false),
                name + ": \"" + key +
                    "\" is true, but linear layers with a bias are not supported; choose a model "
                    "without");
    }
    require(
        !is_given(json, "quantization_config"),
        name +
            ": it has a \"quantization_config\", but only float32, float16 and bfloat16 weights "
            "are supported; use the model's unquantised version");
}

std::int64_t required_integer(const Json& json, const std::string& key, const std::string& name) {
    require(is_given(json, key),
            name + ": \"" + key + "\" is missing; take the config.json that came with the weights");
    return json_integer(json, key, name, 0);
}

// Newer configurations list several end tokens; the first is the end of a document.
std::int64_t token_id(const Json& json, const std::string& key, const std::string& name,
                      std::int64_t otherwise) {
    if (!json.contains(key)) {
        return otherwise;
    }
    const Json& value = json.at(key);
    if (value.is_null() || (value.is_array() && value.empty())) {
        return -1;
    }
    const Json& first = value.is_array() ? value.front() : value;
    require(first.is_number_integer(), name + ": \"" + key + "\" is " + describe(value) +
                                           ", but must be a token id or a list of them");
    return first.get<std::int64_t>();
}

const Json& object_at(const Json& json, const std::string& key, const std::string& name) {
    const Json& value = json.at(key);
    require(value.is_object(),
            name + ": \"" + key + "\" is " + describe(value) + ", but must be an object");
    return value;
}

RopeScaling parse_scaling(const Json& json, const std::string& where) {
    const std::string old_key = json_string(json, "type", where, "");
    const std::string type = json_string(json, "rope_type", where, old_key);
    const double partial = json_number(json, "partial_rotary_factor", where, 1);
    require(partial == 1, where + ": \"partial_rotary_factor\" is not 1, which is not supported");
    if (type == "default" || type == "none" || (type.empty() && !is_given(json, "factor"))) {
        return {};
    }
    require(!type.empty(), where +
                               ": there is a \"factor\" but no \"rope_type\"; add \"rope_type\": "
                               "\"linear\" if positions are to be divided by it");
    require(type == "linear", where + ": \"rope_type\" is \"" + type +
                                  "\", which is not built yet; supported are \"default\" and "
                                  "\"linear\"; choose a model with one of them");
    require(is_given(json, "factor"),
            where + ": \"rope_type\" is \"linear\", but \"factor\" is missing");
    return {type, json_number(json, "factor", where, 1)};
}

// transformers 5 writes all of it into rope_parameters, 4 into rope_theta and rope_scaling.
void parse_rope(const Json& json, const std::string& name, LlamaConfig& config) {
    config.rope_theta = json_number(json, "rope_theta", name, config.rope_theta);
    const std::string key = is_given(json, "rope_parameters") ? "rope_parameters" : "rope_scaling";
    if (!is_given(json, key)) {
        return;
    }
    const std::string where = name + ", " + key;
    const Json& rope = object_at(json, key, name);
    config.rope_theta = json_number(rope, "rope_theta", where, config.rope_theta);
    config.rope = parse_scaling(rope, where);
}

}  // namespace

LlamaConfig parse_llama_config(std::string_view text, const std::string& name) {
    const Json json = parse_json_object(text, name);
    refuse_unsupported(json, name);
    LlamaConfig config;
    config.layers = required_integer(json, "num_hidden_layers", name);
    config.width = required_integer(json, "hidden_size", name);
    config.heads = required_integer(json, "num_attention_heads", name);
    config.mlp_width = required_integer(json, "intermediate_size", name);
    config.vocabulary = required_integer(json, "vocab_size", name);
    config.kv_heads = json_integer(json, "num_key_value_heads", name, config.heads);
    config.max_positions = json_integer(json, "max_position_embeddings", name, 2048);
    if (is_given(json, "head_dim")) {
        config.head_dim = json_integer(json, "head_dim", name, 0);
    } else {
        require(config.heads > 0 && config.width % config.heads == 0,
                name +
                    ": \"hidden_size\" is not a multiple of \"num_attention_heads\"; give "
                    "\"head_dim\"");
        config.head_dim = config.width / config.heads;
    }
    config.rms_epsilon = json_number(json, "rms_norm_eps", name, config.rms_epsilon);
    config.is_tied = json_bool(json, "tie_word_embeddings", name, false);
    config.bos = token_id(json, "bos_token_id", name, 1);
    config.eos = token_id(json, "eos_token_id", name, 2);
    parse_rope(json, name, config);
    check_llama_config(config, name);
    return config;
}

void check_llama_config(const LlamaConfig& config, const std::string& name) {
    const auto check_size = [&](const std::string& what, Index size, Index largest) {
        require(0 < size && size <= largest, name + ": the " + what + " is " +
                                                 std::to_string(size) + ", but must be from 1 to " +
                                                 std::to_string(largest));
    };
    check_size("number of layers", config.layers, most_layers);
    check_size("width (hidden_size)", config.width, largest_size);
    check_size("number of attention heads", config.heads, largest_size);
    check_size("number of key and value heads", config.kv_heads, largest_size);
    check_size("head_dim", config.head_dim, largest_size / std::max<Index>(config.heads, 1));
    check_size("width of the mlp (intermediate_size)", config.mlp_width, largest_size);
    check_size("vocabulary (vocab_size)", config.vocabulary, largest_size);
    check_size("context (max_position_embeddings)", config.max_positions, largest_size);
    require(config.heads % config.kv_heads == 0,
            name + ": " + std::to_string(config.heads) + " attention heads cannot share " +
                std::to_string(config.kv_heads) + " key and value heads: it must divide them");
    require(config.head_dim % 2 == 0, name + ": head_dim is " + std::to_string(config.head_dim) +
                                          ", but rotary positions need an even one");
    require(std::isfinite(config.rms_epsilon) && config.rms_epsilon > 0,
            name + ": rms_norm_eps must be above 0");
    require(std::isfinite(config.rope_theta) && config.rope_theta > 0,
            name + ": rope_theta must be above 0");
    require(std::isfinite(config.rope.factor) && config.rope.factor > 0,
            name + ": the factor of the rope scaling must be above 0");
}

std::vector<TensorShape> llama_tensors(const LlamaConfig& config) {
    const Index q = config.heads * config.head_dim;
    const Index kv = config.kv_heads * config.head_dim;
    const Index width = config.width;
    std::vector<TensorShape> tensors = {{embedding_name, config.vocabulary, width}};
    for (Index i = 0; i < config.layers; ++i) {
        const std::string layer = "model.layers." + std::to_string(i) + ".";
        tensors.push_back({layer + "input_layernorm.weight", width, 0});
        tensors.push_back({layer + "self_attn.q_proj.weight", q, width});
        tensors.push_back({layer + "self_attn.k_proj.weight", kv, width});
        tensors.push_back({layer + "self_attn.v_proj.weight", kv, width});
        tensors.push_back({layer + "self_attn.o_proj.weight", width, q});
        tensors.push_back({layer + "post_attention_layernorm.weight", width, 0});
        tensors.push_back({layer + "mlp.gate_proj.weight", config.mlp_width, width});
        tensors.push_back({layer + "mlp.up_proj.weight", config.mlp_width, width});
        tensors.push_back({layer + "mlp.down_proj.weight", width, config.mlp_width});
    }
    tensors.push_back({"model.norm.weight", width, 0});
    if (!config.is_tied) {
        tensors.push_back({head_name, config.vocabulary, width});
    }
    return tensors;
}

}  // namespace longlora
