#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "core/random.hpp"
#include "io/llama_config.hpp"
#include "io/safetensors.hpp"
#include "support/files.hpp"

// Tiny models on disk, as Hugging Face lays them out.
namespace longlora::test {

struct NamedValues {
    TensorShape shape;
    std::vector<float> values;
};

inline std::string config_text(bool is_tied) {
    return std::string(R"({"model_type": "llama", "hidden_size": 8, "intermediate_size": 12,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 16,
        "tie_word_embeddings": )") +
           (is_tied ? "true}" : "false}");
}

inline std::vector<NamedValues> random_values(const std::vector<TensorShape>& shapes) {
    std::vector<NamedValues> tensors;
    for (std::size_t i = 0; i < shapes.size(); ++i) {
        std::vector<float> values(static_cast<std::size_t>(shapes[i].size()));
        for (std::size_t j = 0; j < values.size(); ++j) {
            values[j] = static_cast<float>(random_normal(i, j));
        }
        tensors.push_back({shapes[i], values});
    }
    return tensors;
}

inline std::vector<NamedValues> random_model(bool is_tied) {
    return random_values(llama_tensors(parse_llama_config(config_text(is_tied), "test")));
}

inline void write_tensors(const std::filesystem::path& path,
                          const std::vector<NamedValues>& tensors,
                          const std::string& dtype = "F32") {
    std::vector<TensorToWrite> written;
    for (const auto& [shape, values] : tensors) {
        const auto sizes = shape.columns == 0 ? std::vector<Index>{shape.rows}
                                              : std::vector<Index>{shape.rows, shape.columns};
        written.push_back({shape.name, sizes, dtype, values});
    }
    std::filesystem::create_directories(path.parent_path());
    write_safetensors(path, written);
}

inline void write_model(const std::filesystem::path& folder, const std::string& config,
                        const std::vector<NamedValues>& tensors, const std::string& dtype = "F32") {
    write_file(folder / "config.json", config);
    write_tensors(folder / "model.safetensors", tensors, dtype);
}

inline NamedValues& named(std::vector<NamedValues>& tensors, const std::string& name) {
    for (auto& tensor : tensors) {
        if (tensor.shape.name == name) {
            return tensor;
        }
    }
    throw std::runtime_error("no " + name);
}

}  // namespace longlora::test
