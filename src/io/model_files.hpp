#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/view.hpp"
#include "io/llama_config.hpp"
#include "io/safetensors.hpp"

namespace longlora {

// A base model: config.json and its tensors, from a Hugging Face directory or compiled in.
// Files stay mapped; a rank reads the rows that it keeps.
class ModelFiles {
public:
    // Reads config.json and the header of model.safetensors, or of the shards that
    // model.safetensors.index.json names. Error when one is missing or damaged.
    static ModelFiles open(const std::filesystem::path& directory);
    // `safetensors` must outlive the object.
    static ModelFiles embedded(std::string_view config_json, std::span<const std::byte> safetensors,
                               const std::string& name = "built-in model");

    const std::string& name() const { return name_; }  // the directory, for messages
    const LlamaConfig& config() const { return config_; }

    // With a tied head, "model.embed_tokens.weight" and "lm_head.weight" are two names of the one
    // matrix, whichever the file uses; all functions below know both.
    bool has(const std::string& tensor) const;

    // Rows [begin, end) of `tensor` (elements of a vector) as float, row-major, into
    // out[rows.size() * tensor.row_size()]. Error when absent, of another shape or type.
    void read(const TensorShape& tensor, Range rows, std::span<float> out) const;
    void read(const TensorShape& tensor, std::span<float> out) const;  // all rows

    // Compares the files with the configuration: every tensor there, right shape, readable type,
    // nothing unexpected; all faults in one Error. Returns what deserves a warning (tensors that are
    // left out on purpose), one sentence each. Reads headers only, but for a head stored twice.
    std::vector<std::string> check() const;

    std::uint64_t digest(const std::string& tensor) const;  // XXH3 of its bytes as stored
    // Over what of config.json counts, and names, types, shapes and bytes of all tensors of llama_tensors(config()) in their order:
    // the same for one file or shards, another for any changed weight. Reads everything.
    std::uint64_t fingerprint() const;

private:
    ModelFiles(std::string name, LlamaConfig config);
    void add(Safetensors file);  // all its tensors
    void add(Safetensors file, const std::vector<std::string>& tensors);
    std::string stored_name(const std::string& tensor) const;
    const Safetensors& file_with(const std::string& tensor) const;
    void check_stored_twice() const;

    std::string name_;
    LlamaConfig config_;
    std::vector<Safetensors> files_;
    std::map<std::string, std::size_t> file_of_;  // tensor -> index into files_
};

}  // namespace longlora
