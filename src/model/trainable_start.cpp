#include "model/trainable_start.hpp"

#include <cmath>

#include "core/host_copy.hpp"
#include "core/random.hpp"
#include "io/digest.hpp"
#include "kernels/random_normal.hpp"

namespace longlora {
namespace {

bool ends_with(const std::string& text, const std::string& end) {
    return text.size() >= end.size() &&
           text.compare(text.size() - end.size(), end.size(), end) == 0;
}

bool is_lora(const TensorShape& tensor) {
    return ends_with(tensor.name, ".lora_A.weight") || ends_with(tensor.name, ".lora_B.weight");
}

// Keyed by name: a matrix starts the same whatever else is trained.
void start_lora(const TensorShape& tensor, std::uint64_t seed, std::span<float> out) {
    const double bound = ends_with(tensor.name, ".lora_A.weight")
                             ? 1.0 / std::sqrt(static_cast<double>(tensor.columns))
                             : 0.0;
    const std::uint64_t key = random_key(seed, Purpose::lora_weight, digest_of(tensor.name));
    for (std::size_t i = 0; i < out.size(); ++i) {
        out[i] = static_cast<float>(bound * (2.0 * random_uniform(key, i) - 1.0));
    }
}

}  // namespace

template <class Device>
void initialise_trainables(const Stream<Device>& stream, Parameters<Device>& parameters,
                           const BaseWeights& base, const AdapterFiles* adapter,
                           std::uint64_t seed) {
    for (const Parameter& parameter : parameters.table()) {
        const TensorShape& tensor = parameter.shape;
        const auto to =
            parameters.weights().slice({parameter.offset, parameter.offset + tensor.size()});
        const auto matrix = is_lora(tensor) ? std::nullopt : base.random_matrix(tensor);
        if (matrix) {
            random_normal(stream, RandomNormal<Device>{matrix->key, matrix->deviation, to});
            continue;
        }
        HostCopy<Device, float> weight(to);
        const std::span<float> out = weight.values();
        if (!is_lora(tensor)) {
            base.read(tensor, out);
        } else if (adapter != nullptr) {
            adapter->read(tensor, out);
        } else {
            start_lora(tensor, seed, out);
        }
        weight.write_back(stream);
    }
}

#define LONGLORA_INSTANTIATE_FUNCTION(Device)                                       \
    template void initialise_trainables(const Stream<Device>&, Parameters<Device>&, \
                                        const BaseWeights&, const AdapterFiles*, std::uint64_t);
LONGLORA_FOR_EACH_DEVICE(LONGLORA_INSTANTIATE_FUNCTION)

}  // namespace longlora
