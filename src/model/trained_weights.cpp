#include "model/trained_weights.hpp"

#include <algorithm>

#include "core/text.hpp"
#include "kernels/matmul.hpp"

namespace longlora {
namespace {

bool is_norm(const TensorShape& tensor) { return tensor.columns == 0; }

bool is_linear(const TensorShape& tensor) {
    return !is_norm(tensor) && tensor.name != embedding_name && tensor.name != head_name;
}

std::vector<float> values_of(const TensorShape& tensor) {
    return std::vector<float>(static_cast<std::size_t>(tensor.size()));
}

View<Cpu, const float, 2> matrix(const std::vector<float>& values, const TensorShape& shape) {
    return {values.data(), shape.rows, shape.columns};
}

}  // namespace

TrainedWeights::TrainedWeights(const BaseWeights& base, Tune tune,
                               const CheckpointReader* checkpoint)
    : base_(base),
      tune_(std::move(tune)),
      checkpoint_(checkpoint),
      has_lora_(tune_.mode != TuneMode::full &&
                (checkpoint != nullptr || base.adapter() != nullptr)) {}

bool TrainedWeights::is_changed(const TensorShape& tensor) const {
    const AdapterFiles* start = base_.adapter();
    return (checkpoint_ != nullptr && checkpoint_->has(tensor.name)) ||
           (start != nullptr && start->has(adapter_name(tensor.name)));
}

std::vector<AdapterTensor> TrainedWeights::adapter_tensors() const {
    const auto shapes = llama_tensors(base_.config());
    std::vector<AdapterTensor> tensors;
    for (const TensorShape& factor : longlora::adapter_tensors(base_.config(), adapter_config())) {
        tensors.push_back({factor.name, factor});
    }
    // All norms or none: "norm" in modules_to_save means each layer whose name ends so.
    const bool saves_norms = std::ranges::any_of(
        shapes, [&](const TensorShape& tensor) { return is_norm(tensor) && is_changed(tensor); });
    for (const TensorShape& tensor : shapes) {
        if (!is_linear(tensor) && (is_norm(tensor) ? saves_norms : is_changed(tensor))) {
            tensors.push_back({adapter_name(tensor.name), tensor});
            if (tensor.name == embedding_name && base_.config().is_tied) {
                tensors.push_back({adapter_name(head_name), tensor});
            }
        }
    }
    return tensors;
}

void TrainedWeights::read(const TensorShape& tensor, std::span<float> out) const {
    if (checkpoint_ != nullptr && checkpoint_->has(tensor.name)) {
        checkpoint_->read(tensor.name, out);
    } else if (base_.adapter() != nullptr && base_.adapter()->has(tensor.name)) {
        base_.adapter()->read(tensor, out);
    } else {
        base_.read(tensor, out);
    }
}

void TrainedWeights::read_merged(const Stream<Cpu>& stream, const TensorShape& tensor,
                                 std::span<float> out) const {
    read(tensor, out);
    const auto pair = has_lora_ ? lora_pair(tensor, adapter_config()) : std::nullopt;
    if (!pair) {
        return;
    }
    auto a = values_of(pair->a);
    auto b = values_of(pair->b);
    read(pair->a, a);
    read(pair->b, b);
    matmul(stream, {.a = matrix(b, pair->b),
                    .b = matrix(a, pair->a),
                    .out = View<Cpu, float, 2>(out.data(), tensor.rows, tensor.columns),
                    .alpha = static_cast<float>(tune_.scale()),
                    .beta = 1});
}

std::vector<std::string> saved_modules(const std::vector<AdapterTensor>& tensors) {
    std::vector<std::string> modules;
    for (const AdapterTensor& tensor : tensors) {
        const auto parts = split(tensor.name, '.');
        const std::string& module = parts[parts.size() - 2];  // before "weight"
        const bool is_factor = module == "lora_A" || module == "lora_B";
        if (!is_factor && std::ranges::find(modules, module) == modules.end()) {
            modules.push_back(module);
        }
    }
    return modules;
}

}  // namespace longlora
