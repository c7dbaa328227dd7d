#include "io/adapter.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <set>
#include <utility>

#include "core/error.hpp"
#include "core/text.hpp"
#include "io/json.hpp"
#include "io/mapped_file.hpp"

namespace longlora {
namespace {

const std::vector<std::string> linear_layers = {"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                                "gate_proj", "up_proj", "down_proj"};

// A reference: copying JSON recurses, and the nesting is the file's.
const Json& value_or_null(const Json& json, const char* key) {
    static const Json null;
    const auto found = json.find(key);
    return found == json.end() ? null : *found;
}

bool is_unset(const Json& value) {
    return value.is_null() || value == false || (value.is_structured() && value.empty());
}

// Settings of PEFT that change what the matrices mean; each must be absent, null, false or empty.
void refuse_unsupported(const Json& json, const std::string& name) {
    const std::string type = json_string(json, "peft_type", name, "LORA");
    require(type == "LORA",
            name + ": \"peft_type\" is \"" + type + "\", but only \"LORA\" is supported");
    const std::string bias = json_string(json, "bias", name, "none");
    require(bias == "none",
            name + ": \"bias\" is \"" + bias + "\", but only \"none\" is supported");
    for (const char* key :
         {"use_rslora", "use_dora", "use_qalora", "lora_bias", "fan_in_fan_out", "rank_pattern",
          "alpha_pattern", "layers_to_transform", "layers_pattern", "exclude_modules",
          "layer_replication", "target_parameters", "trainable_token_indices",
          "alora_invocation_tokens"}) {
        const Json& value = value_or_null(json, key);
        require(is_unset(value),
                name + ": \"" + key + "\" is " + describe(value) +
                    ", which is not supported; only plain LoRA is, the same for all layers");
    }
    // pissa, olora, corda and loftq change the base model too, and the file does not say how
    const Json& start = value_or_null(json, "init_lora_weights");
    require(start.is_null() || start.is_boolean() || start == "gaussian" || start == "eva" ||
                start == "orthogonal",
            name + ": \"init_lora_weights\" is " + describe(start) +
                ", which changes the base model; save the adapter converted to plain LoRA");
}

std::vector<std::string> parse_targets(const Json& json, const std::string& name) {
    const Json& given = value_or_null(json, "target_modules");
    require(!given.is_string(),
            name + ": \"target_modules\" is the pattern " + describe(given) +
                ", but only a list of names is supported: " + join(linear_layers, ", "));
    require(given.is_array() && !given.empty(),
            name + ": \"target_modules\" must list some of " + join(linear_layers, ", "));
    for (const auto& target : given) {
        require(target.is_string() && std::ranges::find(linear_layers, target.get<std::string>()) !=
                                          linear_layers.end(),
                name + ": \"target_modules\" holds " + describe(target) + ", but supported are " +
                    join(linear_layers, ", "));
    }
    std::vector<std::string> targets;
    std::ranges::copy_if(linear_layers, std::back_inserter(targets), [&](const std::string& layer) {
        return std::ranges::find(given, Json(layer)) != given.end();
    });
    return targets;
}

// "q_proj" of "model.layers.0.self_attn.q_proj.weight"; empty for embeddings, norms and head.
std::string linear_layer(const std::string& base_name) {
    const auto parts = split(base_name, '.');
    const bool is_linear = parts.size() == 6;
    return is_linear ? parts[4] : "";
}

}  // namespace

AdapterConfig parse_adapter_config(std::string_view text, const std::string& name) {
    const Json json = parse_json_object(text, name);
    refuse_unsupported(json, name);
    AdapterConfig config;
    config.rank = json_integer(json, "r", name, config.rank);
    config.alpha = json_number(json, "lora_alpha", name, 8);  // PEFT's defaults
    config.dropout = json_number(json, "lora_dropout", name, 0);
    config.targets = parse_targets(json, name);
    require(1 <= config.rank && config.rank <= 65536,
            name + ": \"r\" is " + std::to_string(config.rank) + ", but must be from 1 to 65536");
    require(std::isfinite(config.alpha) && config.alpha > 0,
            name + ": \"lora_alpha\" must be above 0");
    require(0 <= config.dropout && config.dropout < 1,
            name + ": \"lora_dropout\" must be at least 0 and below 1");
    return config;
}

std::string adapter_name(const std::string& base_name) { return "base_model.model." + base_name; }

std::optional<LoraPair> lora_pair(const TensorShape& base, const AdapterConfig& adapter) {
    if (std::ranges::find(adapter.targets, linear_layer(base.name)) == adapter.targets.end()) {
        return std::nullopt;
    }
    const std::string layer = adapter_name(base.name.substr(0, base.name.rfind("weight")));
    return LoraPair{{layer + "lora_A.weight", adapter.rank, base.columns},
                    {layer + "lora_B.weight", base.rows, adapter.rank}};
}

std::vector<TensorShape> adapter_tensors(const LlamaConfig& model, const AdapterConfig& adapter) {
    std::vector<TensorShape> tensors;
    for (const auto& base : llama_tensors(model)) {
        if (const auto pair = lora_pair(base, adapter)) {
            tensors.push_back(pair->a);
            tensors.push_back(pair->b);
        }
    }
    return tensors;
}

AdapterFiles::AdapterFiles(std::string name, AdapterConfig config, Safetensors file)
    : name_(std::move(name)), config_(std::move(config)), file_(std::move(file)) {}

AdapterFiles AdapterFiles::open(const std::filesystem::path& directory) {
    require(std::filesystem::is_directory(directory),
            directory.string() +
                " is not a folder; tune.adapter names the folder of a PEFT adapter, with "
                "adapter_config.json and adapter_model.safetensors in it");
    const auto config_path = directory / "adapter_config.json";
    const auto weights_path = directory / "adapter_model.safetensors";
    const MappedFile config(config_path);
    require(std::filesystem::exists(weights_path),
            directory.string() +
                " has no adapter_model.safetensors; only that format is read, so save the "
                "adapter with safe_serialization=True");
    return {directory.string(), parse_adapter_config(config.text(), config_path.string()),
            Safetensors(weights_path)};
}

void AdapterFiles::read(const TensorShape& tensor, Range rows, std::span<float> out) const {
    file_.read_rows(tensor, rows, out);
}

void AdapterFiles::read(const TensorShape& tensor, std::span<float> out) const {
    read(tensor, {0, tensor.rows}, out);
}

void AdapterFiles::check(const LlamaConfig& model) const {
    std::vector<std::string> faults;
    std::set<std::string> known;
    const auto compare = [&](const TensorShape& tensor) {
        known.insert(tensor.name);
        if (const auto fault = file_.fault(tensor); !fault.empty()) {
            faults.push_back(fault);
        }
    };
    std::ranges::for_each(adapter_tensors(model, config_), compare);
    LlamaConfig untied = model;  // lists lm_head.weight, which an adapter may have with a tied head
    untied.is_tied = false;
    for (auto tensor : llama_tensors(untied)) {
        const bool is_linear = !linear_layer(tensor.name).empty();
        tensor.name = adapter_name(tensor.name);
        if (has(tensor.name) && !is_linear) {
            compare(tensor);
        }
    }
    for (const auto& item : file_.tensors()) {
        if (!known.contains(item.first)) {
            faults.push_back(item.first + " is unexpected");
        }
    }
    constexpr std::size_t most = 8;
    const std::size_t more = faults.size() > most ? faults.size() - most : 0;
    faults.resize(faults.size() - more);
    require(faults.empty(), name_ + " does not fit the model and its own adapter_config.json: " +
                                join(faults, "; ") +
                                (more > 0 ? "; and " + std::to_string(more) + " more" : ""));
    if (model.is_tied) {
        check_tied_head();
    }
}

// PEFT unties a head that it saves alone or without the embeddings' values; this program never does.
void AdapterFiles::check_tied_head() const {
    const std::string embedding = adapter_name(embedding_name);
    const std::string head = adapter_name(head_name);
    if (!has(embedding) && !has(head)) {
        return;
    }
    const std::string remedy =
        "; the model's head is tied to its embeddings, so the adapter must hold both or neither, "
        "with the same values";
    require(has(embedding) && has(head),
            name_ + " holds only one of " + embedding + " and " + head + remedy);
    const StoredTensor& first = file_.at(embedding);
    const StoredTensor& second = file_.at(head);
    require(first.dtype == second.dtype && std::ranges::equal(first.bytes, second.bytes),
            name_ + ": " + embedding + " and " + head + " differ" + remedy);
}

}  // namespace longlora
