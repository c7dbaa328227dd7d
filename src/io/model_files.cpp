#include "io/model_files.hpp"

#include <algorithm>
#include <set>
#include <utility>

#include "core/error.hpp"
#include "core/text.hpp"
#include "io/digest.hpp"
#include "io/json.hpp"
#include "io/mapped_file.hpp"

namespace longlora {
namespace {

// Shard by shard: file name -> tensors that the index expects there.
std::map<std::string, std::vector<std::string>> read_index(const std::filesystem::path& path) {
    const MappedFile file(path);
    const Json json = parse_json_object(file.text(), path.string());
    const auto map = json.find("weight_map");
    require(map != json.end() && map->is_object() && !map->empty(),
            path.string() + " has no \"weight_map\" from tensors to files");
    std::map<std::string, std::vector<std::string>> shards;
    for (const auto& item : map->items()) {
        const std::string shard = json_string(*map, item.key(), path.string(), "");
        require(!shard.empty() && std::filesystem::path(shard).filename() == shard && shard != "..",
                path.string() + ": tensor '" + item.key() + "' is said to be in \"" + shard +
                    "\", which is not the name of a file beside the index");
        shards[shard].push_back(item.key());
    }
    return shards;
}

// All faults of a kind, or the first of many.
std::string listed(const std::vector<std::string>& faults) {
    constexpr std::size_t most = 8;
    const std::vector<std::string> first(
        faults.begin(), faults.begin() + static_cast<Index>(std::min(most, faults.size())));
    const std::string more =
        faults.size() > most ? "; and " + std::to_string(faults.size() - most) + " more" : "";
    return join(first, "; ") + more;
}

// Buffers that old versions of transformers stored beside the weights; they are computed here.
bool is_harmless(const std::string& tensor) {
    return tensor.ends_with(".rotary_emb.inv_freq") || tensor.ends_with(".self_attn.masked_bias");
}

// What of config.json changes the numbers that the same tensors give.
std::string config_line(const LlamaConfig& config) {
    return join({std::to_string(config.heads), std::to_string(config.kv_heads),
                 format_number(config.rms_epsilon, 17), format_number(config.rope_theta, 17),
                 config.rope.type, format_number(config.rope.factor, 17)},
                " ") +
           "\n";
}

}  // namespace

ModelFiles::ModelFiles(std::string name, LlamaConfig config)
    : name_(std::move(name)), config_(std::move(config)) {}

ModelFiles ModelFiles::open(const std::filesystem::path& directory) {
    require(std::filesystem::is_directory(directory),
            directory.string() +
                " is not a folder; model.path names the folder of a Hugging Face model, with "
                "config.json and model.safetensors in it");
    const auto config_path = directory / "config.json";
    const MappedFile config(config_path);
    ModelFiles model(directory.string(), parse_llama_config(config.text(), config_path.string()));
    const auto single = directory / "model.safetensors";
    const auto index = directory / "model.safetensors.index.json";
    if (std::filesystem::exists(single)) {
        model.add(Safetensors(single));
        return model;
    }
    require(std::filesystem::exists(index),
            directory.string() +
                " has neither model.safetensors nor model.safetensors.index.json; only that format "
                "is read, so save the model with safe_serialization=True");
    for (const auto& [shard, tensors] : read_index(index)) {
        require(std::filesystem::exists(directory / shard),
                (directory / shard).string() +
                    " is missing, but model.safetensors.index.json names it; download it too");
        model.add(Safetensors(directory / shard), tensors);
    }
    return model;
}

ModelFiles ModelFiles::embedded(std::string_view config_json,
                                std::span<const std::byte> safetensors, const std::string& name) {
    ModelFiles model(name, parse_llama_config(config_json, name + " config.json"));
    model.add(Safetensors(safetensors, name + " model.safetensors"));
    return model;
}

void ModelFiles::add(Safetensors file) {
    std::vector<std::string> tensors;
    for (const auto& item : file.tensors()) {
        tensors.push_back(item.first);
    }
    add(std::move(file), tensors);
}

void ModelFiles::add(Safetensors file, const std::vector<std::string>& tensors) {
    for (const auto& tensor : tensors) {
        require(file.has(tensor), file.name() + " has no tensor '" + tensor +
                                      "', but model.safetensors.index.json places it there; "
                                      "download both again");
        file_of_[tensor] = files_.size();
    }
    files_.push_back(std::move(file));
}

std::string ModelFiles::stored_name(const std::string& tensor) const {
    if (!config_.is_tied || file_of_.contains(tensor)) {
        return tensor;
    }
    return tensor == embedding_name ? head_name : tensor == head_name ? embedding_name : tensor;
}

bool ModelFiles::has(const std::string& tensor) const {
    return file_of_.contains(stored_name(tensor));
}

const Safetensors& ModelFiles::file_with(const std::string& tensor) const {
    const auto place = file_of_.find(stored_name(tensor));
    require(place != file_of_.end(), name_ + " has no tensor '" + tensor + "'");
    return files_[place->second];
}

void ModelFiles::read(const TensorShape& tensor, Range rows, std::span<float> out) const {
    const TensorShape stored = {stored_name(tensor.name), tensor.rows, tensor.columns};
    file_with(tensor.name).read_rows(stored, rows, out);
}

void ModelFiles::read(const TensorShape& tensor, std::span<float> out) const {
    read(tensor, {0, tensor.rows}, out);
}

std::vector<std::string> ModelFiles::check() const {
    std::vector<std::string> faults;
    std::vector<std::string> warnings;
    if (file_of_.contains("embed_tokens.weight")) {
        faults.emplace_back(
            "tensor names without \"model.\" in front are not supported (save it as "
            "LlamaForCausalLM)");
    }
    std::set<std::string> expected = {embedding_name, head_name};
    for (TensorShape tensor : llama_tensors(config_)) {
        expected.insert(tensor.name);
        if (has(tensor.name)) {
            tensor.name = stored_name(tensor.name);
            const auto fault = file_with(tensor.name).fault(tensor);
            if (!fault.empty()) {
                faults.push_back(fault);
            }
        } else if (tensor.name == head_name) {
            faults.push_back(
                "lm_head.weight is missing although config.json does not tie it to the embeddings "
                "(if they are one matrix, set \"tie_word_embeddings\": true there)");
        } else {
            faults.push_back(tensor.name + " is missing");
        }
    }
    for (const auto& [tensor, file] : file_of_) {
        if (is_harmless(tensor)) {
            warnings.push_back(name_ + ": " + tensor + " is left out, it is computed here");
        } else if (!expected.contains(tensor)) {
            faults.push_back(tensor + " is unexpected");
        }
    }
    if (faults.empty() && config_.is_tied && file_of_.contains(head_name) &&
        file_of_.contains(embedding_name)) {
        check_stored_twice();
    }
    require(faults.empty(),
            name_ + " does not hold the model that its config.json describes: " + listed(faults) +
                "; take config.json and weights from the same model");
    return warnings;
}

// transformers 4 would take the embeddings for both, transformers 5 would not tie them.
void ModelFiles::check_stored_twice() const {
    const StoredTensor& first = file_with(embedding_name).at(embedding_name);
    const StoredTensor& second = file_with(head_name).at(head_name);
    require(first.dtype == second.dtype && std::ranges::equal(first.bytes, second.bytes),
            name_ +
                ": config.json ties lm_head.weight to model.embed_tokens.weight, but the file "
                "holds both and they differ; set \"tie_word_embeddings\": false there, or "
                "remove lm_head.weight");
}

std::uint64_t ModelFiles::digest(const std::string& tensor) const {
    return digest_of(file_with(tensor).at(stored_name(tensor)).bytes);
}

std::uint64_t ModelFiles::fingerprint() const {
    std::string table = config_line(config_);
    for (const auto& tensor : llama_tensors(config_)) {
        const StoredTensor& stored = file_with(tensor.name).at(stored_name(tensor.name));
        table += tensor.name + " " + stored.dtype + " " + format_shape(stored.shape) + " " +
                 format_digest(digest_of(stored.bytes)) + "\n";
    }
    return digest_of(table);
}

}  // namespace longlora
