#include "model/base_weights.hpp"

#include <algorithm>
#include <functional>

#include "core/random.hpp"

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
    TensorShape saved = tensor;
    saved.name = adapter_name(tensor.name);
    if (adapter_ && adapter_->has(saved.name)) {
        adapter_->read(saved, out);
        return;
    }
    if (files_) {
        files_->read(tensor, out);
        return;
    }
    if (tensor.columns == 0) {
        std::fill(out.begin(), out.end(), 1.0F);
        return;
    }
    const std::uint64_t key = random_key(seed_, Purpose::initial_weight, text_key(tensor.name));
    const auto size = static_cast<Index>(out.size());
#pragma omp parallel for if (size > 65536)
    for (Index i = 0; i < size; ++i) {
        out[static_cast<std::size_t>(i)] = static_cast<float>(
            initial_deviation * random_normal(key, static_cast<std::uint64_t>(i)));
    }
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
