#include "io/exported_config.hpp"

#include <cmath>

#include "core/error.hpp"
#include "core/text.hpp"
#include "io/json.hpp"

namespace longlora {
namespace {

using OrderedJson = nlohmann::ordered_json;

constexpr int deepest = 64;  // levels: writing recurses, and the nesting is the file's

std::string text_of(const OrderedJson& json) {
    return json.dump(2, ' ', false, OrderedJson::error_handler_t::replace) + "\n";
}

OrderedJson parse_base(std::string_view text) {
    if (text.empty()) {
        return OrderedJson::object();
    }
    const auto watch = [](int depth, OrderedJson::parse_event_t, const OrderedJson&) {
        require(depth < deepest, "config.json of the base is nested too deep to be copied");
        return true;
    };
    return OrderedJson::parse(text.begin(), text.end(), watch);
}

void set_sizes(OrderedJson& json, const LlamaConfig& config) {
    const auto set_missing = [&](const char* key, const OrderedJson& value) {
        if (!json.contains(key)) {
            json[key] = value;
        }
    };
    const auto token = [](std::int64_t id) { return id < 0 ? OrderedJson() : OrderedJson(id); };
    set_missing("architectures", OrderedJson::array({"LlamaForCausalLM"}));
    set_missing("model_type", "llama");
    set_missing("hidden_act", "silu");
    set_missing("hidden_size", config.width);
    set_missing("intermediate_size", config.mlp_width);
    set_missing("num_hidden_layers", config.layers);
    set_missing("num_attention_heads", config.heads);
    set_missing("num_key_value_heads", config.kv_heads);
    set_missing("head_dim", config.head_dim);
    set_missing("vocab_size", config.vocabulary);
    set_missing("rms_norm_eps", config.rms_epsilon);
    set_missing("attention_bias", false);
    set_missing("mlp_bias", false);
    set_missing("bos_token_id", token(config.bos));
    set_missing("eos_token_id", token(config.eos));
}

bool is_scaled(const LlamaConfig& config) { return config.rope.type != "none"; }

// "type" and nothing else is understood by every transformers 4: before 4.43 another key is refused.
OrderedJson scaling_4(const LlamaConfig& config) {
    OrderedJson json;
    if (is_scaled(config)) {
        json["type"] = config.rope.type;
        json["factor"] = config.rope.factor;
    }
    return json;
}

OrderedJson parameters_5(const LlamaConfig& config) {
    OrderedJson json;
    json["rope_type"] = is_scaled(config) ? config.rope.type : "default";
    if (is_scaled(config)) {
        json["factor"] = config.rope.factor;
    }
    json["rope_theta"] = config.rope_theta;
    return json;
}

OrderedJson list_or_null(const std::vector<std::string>& names) {
    return names.empty() ? OrderedJson() : OrderedJson(names);
}

}  // namespace

std::string exported_config(std::string_view base, const LlamaConfig& config,
                            const std::string& dtype) {
    OrderedJson json = parse_base(base);
    set_sizes(json, config);
    json["max_position_embeddings"] = config.max_positions;
    json["rope_theta"] = config.rope_theta;
    json["rope_scaling"] = scaling_4(config);
    json["rope_parameters"] = parameters_5(config);
    json["tie_word_embeddings"] = config.is_tied;
    json["torch_dtype"] = dtype;
    if (json.contains("dtype")) {  // the name of the same since transformers 4.56
        json["dtype"] = dtype;
    }
    return text_of(json);
}

std::string exported_adapter_config(const AdapterConfig& adapter,
                                    const std::vector<std::string>& saved_modules,
                                    const std::string& base) {
    OrderedJson json;
    json["peft_type"] = "LORA";
    json["task_type"] = "CAUSAL_LM";
    json["base_model_name_or_path"] = base.empty() ? OrderedJson() : OrderedJson(base);
    json["r"] = adapter.rank;
    const bool is_whole = adapter.alpha == std::floor(adapter.alpha) && adapter.alpha < 1e9;
    json["lora_alpha"] = is_whole ? OrderedJson(static_cast<Index>(adapter.alpha))
                                  : OrderedJson(adapter.alpha);  // PEFT expects an integer
    json["lora_dropout"] = adapter.dropout;
    json["target_modules"] = adapter.targets;
    json["modules_to_save"] = list_or_null(saved_modules);
    json["bias"] = "none";
    json["fan_in_fan_out"] = false;
    json["init_lora_weights"] = true;
    json["use_rslora"] = false;
    json["use_dora"] = false;
    json["inference_mode"] = true;
    return text_of(json);
}

std::string exported_adapter_readme(const LlamaConfig& config, const std::string& base) {
    const std::string where = base.empty() ? "BASE" : base;
    const std::string factor = format_number(config.rope.factor, 17);
    std::string text =
        "A LoRA adapter in PEFT's layout, written by longlora_hpc. It belongs to the base "
        "model\n`" +
        where + "`.\n\n";
    if (!is_scaled(config)) {
        return text + "No rope scaling is set: it was trained with the base's positions.\n";
    }
    text += "It was trained with the rope scaling `" + config.rope.type + "`, factor " + factor +
            ", which an adapter has no place for. So the base is to be loaded with it:\n\n"
            "    from peft import PeftModel\n"
            "    from transformers import AutoConfig, AutoModelForCausalLM\n"
            "    config = AutoConfig.from_pretrained(\"" +
            where +
            "\")\n"
            "    config.rope_scaling = " +
            scaling_4(config).dump() +
            "  # transformers 4\n"
            "    config.rope_parameters = " +
            parameters_5(config).dump() +
            "  # transformers 5\n"
            "    config.max_position_embeddings = " +
            std::to_string(config.max_positions) +
            "\n"
            "    base = AutoModelForCausalLM.from_pretrained(\"" +
            where +
            "\", config=config)\n"
            "    model = PeftModel.from_pretrained(base, \"<this folder>\")\n\n";
    return text + "and by longlora_hpc with `--rope.scaling " + config.rope.type +
           " --rope.factor " + factor + "`.\n";
}

}  // namespace longlora
