#include "model/base_weights.hpp"

#include <algorithm>
#include <functional>

#include "core/random.hpp"
#include "kernels/random_normal.hpp"

namespace longlora {
namespace {

constexpr double initial_deviation = 0.02;

std::uint64_t text_key(const std::string& text) {
    std::uint64_t key = 0;
    for (const char letter : text) {
        key = mix_bits(key ^ static_cast<unsigned char>(letter));
    }
    return key;
}

}  // namespace

BaseWeights::BaseWeights(ModelFiles files) : config_(files.config()), files_(std::move(files)) {}

BaseWeights::BaseWeights(const LlamaConfig& config, std::uint64_t seed)
    : config_(config), seed_(seed) {
    check_llama_config(config, "model.* options");
}

std::string BaseWeights::name() const { return files_ ? files_->name() : "random start"; }

void BaseWeights::read(const TensorShape& tensor, std::span<float> out) const {
    if (is_in_adapter(tensor)) {
        TensorShape saved = tensor;
        saved.name = adapter_name(tensor.name);
        adapter_->read(saved, out);
    } else if (files_) {
        files_->read(tensor, out);
    } else if (const auto matrix = random_matrix(tensor)) {
        random_normal(Stream<Cpu>(),
                      {.key = matrix->key,
                       .deviation = matrix->deviation,
                       .out = View<Cpu, float, 1>(out.data(), static_cast<Index>(out.size()))});
    } else {
        std::fill(out.begin(), out.end(), 1.0F);  // norms
    }
}

std::optional<RandomMatrix> BaseWeights::random_matrix(const TensorShape& tensor) const {
    if (files_ || tensor.columns == 0 || is_in_adapter(tensor)) {
        return std::nullopt;
    }
    return RandomMatrix{random_key(seed_, Purpose::initial_weight, text_key(tensor.name)),
                        initial_deviation};
}

bool BaseWeights::is_in_adapter(const TensorShape& tensor) const {
    return adapter_ && adapter_->has(adapter_name(tensor.name));
}

std::uint64_t BaseWeights::fingerprint() const {
    if (files_) {
        return files_->fingerprint();
    }
    std::uint64_t digest = mix_bits(seed_);
    for (const TensorShape& tensor : llama_tensors(config_)) {
        digest = mix_bits(digest ^ text_key(tensor.name) ^
                          mix_bits(static_cast<std::uint64_t>(tensor.size())));
    }
    return digest;
}

}  // namespace longlora
