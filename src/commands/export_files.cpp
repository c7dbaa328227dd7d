#include "commands/export_files.hpp"

#include <algorithm>
#include <array>
#include <filesystem>
#include <optional>

#include "comm/agree.hpp"
#include "core/error.hpp"
#include "io/durable.hpp"
#include "io/exported_config.hpp"
#include "io/folder_replacement.hpp"
#include "io/mapped_file.hpp"

namespace longlora {
namespace {

constexpr auto adapter_file = "adapter_model.safetensors";

// Tokenizers of all kinds, and how to generate: nothing in them depends on the weights.
constexpr std::array copied_files = {
    "generation_config.json",  "tokenizer.model",   "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json",     "merges.txt",
    "chat_template.jinja",     "chat_template.json"};

std::vector<std::string> found_copies(const std::string& base_folder) {
    std::vector<std::string> found;
    for (const char* name : copied_files) {
        if (!base_folder.empty() && std::filesystem::is_regular_file(base_folder + "/" + name)) {
            found.emplace_back(name);
        }
    }
    return found;
}

std::vector<Index> shape_of(const TensorShape& tensor) {
    return tensor.columns == 0 ? std::vector{tensor.rows}
                               : std::vector{tensor.rows, tensor.columns};
}

std::string stored_type(const std::string& dtype) {
    return dtype == "float32" ? "F32" : dtype == "float16" ? "F16" : "BF16";
}

std::vector<TensorEntry> entries_of(const std::vector<AdapterTensor>& tensors) {
    std::vector<TensorEntry> entries;
    for (const AdapterTensor& tensor : tensors) {
        entries.push_back({tensor.name, shape_of(tensor.source), "F32"});
    }
    return entries;
}

template <class Texts>
void add_names(const Texts& texts, std::vector<std::string>& names) {
    for (const auto& [name, text] : texts) {
        names.push_back(name);
    }
}

void write_texts(const std::map<std::string, std::string>& texts, const std::string& folder) {
    for (const auto& [name, text] : texts) {
        write_text(std::filesystem::path(folder) / name, text);
    }
}

}  // namespace

ExportFiles::ExportFiles(ExportRequest request)
    : request_(std::move(request)),
      tensors_(llama_tensors(request_.config)),
      copies_(found_copies(request_.base_folder)) {
    if (request_.weights.has_lora()) {
        adapter_ = request_.weights.adapter_tensors();
    }
    std::vector<TensorEntry> entries;
    for (const TensorShape& tensor : tensors_) {
        entries.push_back({tensor.name, shape_of(tensor), stored_type(request_.dtype)});
    }
    shards_ = plan_shards(entries, request_.shard_bytes);
}

Index ExportFiles::adapter_bytes() const {
    return ModelShard{adapter_file, entries_of(adapter_)}.bytes();
}

Index ExportFiles::model_bytes() const {
    Index bytes = 0;
    for (const ModelShard& shard : shards_) {
        bytes += shard.bytes();
    }
    return bytes;
}

Index ExportFiles::largest_tensor() const {
    Index largest = 0;
    for (const TensorShape& tensor : tensors_) {
        largest = std::max(largest, tensor.size());
    }
    return largest;
}

void ExportFiles::check() const {
    FolderReplacement::check(model_folder());
    if (has_adapter()) {
        FolderReplacement::check(adapter_folder());
    }
}

std::map<std::string, std::string> ExportFiles::adapter_texts() const {
    return {{"adapter_config.json",
             exported_adapter_config(request_.weights.adapter_config(), saved_modules(adapter_),
                                     request_.base_folder)},
            {"README.md", exported_adapter_readme(request_.config, request_.base_folder)}};
}

std::map<std::string, std::string> ExportFiles::model_texts() const {
    std::map<std::string, std::string> texts = {
        {"config.json", exported_config(request_.base_config, request_.config, request_.dtype)}};
    if (shards_.size() > 1) {
        texts[shard_index_name] = shard_index(shards_);
    }
    for (const std::string& name : copies_) {
        texts[name] = MappedFile(request_.base_folder + "/" + name).text();
    }
    return texts;
}

void ExportFiles::write_adapter() const {
    SafetensorsWriter writer(FolderReplacement::unfinished(adapter_folder()) + "/" + adapter_file,
                             entries_of(adapter_));
    std::vector<float> values;
    for (const AdapterTensor& tensor : adapter_) {
        values.resize(static_cast<std::size_t>(tensor.source.size()));
        request_.weights.read(tensor.source, values);
        writer.append(values);
    }
    writer.publish();
}

void ExportFiles::write_shard(const ModelShard& shard, const Stream<Cpu>& stream) const {
    SafetensorsWriter writer(FolderReplacement::unfinished(model_folder()) + "/" + shard.file,
                             shard.tensors);
    std::vector<float> values;
    for (const TensorEntry& entry : shard.tensors) {
        const auto tensor = std::ranges::find(tensors_, entry.name, &TensorShape::name);
        values.resize(static_cast<std::size_t>(tensor->size()));
        request_.weights.read_merged(stream, *tensor, values);
        writer.append(values);
    }
    writer.publish();
}

// Shards first, the adapter last.
void ExportFiles::write_large_file(std::size_t file, const Stream<Cpu>& stream) const {
    if (file < shards_.size()) {
        write_shard(shards_[file], stream);
    } else {
        write_adapter();
    }
}

void ExportFiles::write(const Communicator<Cpu>& world, const Stream<Cpu>& stream) const {
    const bool is_root = world.rank() == 0;
    std::optional<FolderLock> lock;
    std::vector<FolderReplacement> folders;  // of rank 0
    const auto begin = [&](const std::string& folder,
                           const std::map<std::string, std::string>& texts,
                           std::vector<std::string> large) {
        add_names(texts, large);
        folders.emplace_back(folder, large, request_.facts);
        write_texts(texts, FolderReplacement::unfinished(folder));
    };
    agree([&] {
        if (!is_root) {
            return;
        }
        make_folders(request_.directory);
        lock.emplace(request_.directory, "an export", "export.directory");
        check();
        check_space(request_.directory, model_bytes() + adapter_bytes());
        std::vector<std::string> shard_files;
        for (const ModelShard& shard : shards_) {
            shard_files.push_back(shard.file);
        }
        begin(model_folder(), model_texts(), shard_files);
        if (has_adapter()) {
            begin(adapter_folder(), adapter_texts(), {adapter_file});
        }
    });
    agree([&] {
        const std::size_t count = shards_.size() + (has_adapter() ? 1 : 0);
        const auto ranks = static_cast<std::size_t>(world.size());
        for (auto file = static_cast<std::size_t>(world.rank()); file < count; file += ranks) {
            write_large_file(file, stream);
        }
    });
    agree([&] { std::ranges::for_each(folders, &FolderReplacement::publish); });
}

}  // namespace longlora
