#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "io/model_files.hpp"

namespace longlora {

// Where the weights of the base model come from: files, or a random start that is a function of the
// seed (transformers' initialisation: normal with deviation 0.02, norms 1).
class BaseWeights {
public:
    explicit BaseWeights(ModelFiles files);
    BaseWeights(const LlamaConfig& config, std::uint64_t seed);

    const LlamaConfig& config() const { return config_; }
    std::string name() const;
    void read(const TensorShape& tensor, std::span<float> out) const;
    // The same base has the same fingerprint; a changed weight or shape has another.
    std::uint64_t fingerprint() const;

private:
    LlamaConfig config_;
    std::optional<ModelFiles> files_;
    std::uint64_t seed_ = 0;
};

}  // namespace longlora
