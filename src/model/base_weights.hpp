#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "io/adapter.hpp"
#include "io/model_files.hpp"

namespace longlora {

// Element i is deviation random_normal(key, i).
struct RandomMatrix {
    std::uint64_t key;
    double deviation;
};

// Where the weights of the base model come from: files, or a random start that is a function of the
// seed (transformers' initialisation: normal with deviation 0.02, norms 1).
class BaseWeights {
public:
    explicit BaseWeights(ModelFiles files);
    BaseWeights(const LlamaConfig& config, std::uint64_t seed);

    // Embeddings, norms and head that an adapter has saved stand in for the base's, trained or not.
    void set_adapter(std::shared_ptr<const AdapterFiles> adapter) { adapter_ = std::move(adapter); }
    const AdapterFiles* adapter() const { return adapter_.get(); }

    const LlamaConfig& config() const { return config_; }
    std::string name() const;
    void read(const TensorShape& tensor, std::span<float> out) const;
    // Where no file has the tensor: what it is drawn from.
    std::optional<RandomMatrix> random_matrix(const TensorShape& tensor) const;
    // Of the base without the adapter: a changed weight or shape has another.
    std::uint64_t fingerprint() const;

private:
    bool is_in_adapter(const TensorShape& tensor) const;

    LlamaConfig config_;
    std::optional<ModelFiles> files_;
    std::uint64_t seed_ = 0;
    std::shared_ptr<const AdapterFiles> adapter_;
};

}  // namespace longlora
