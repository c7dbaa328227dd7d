#include "io/adapter.hpp"
#include "model/block.hpp"

namespace longlora {

template <class Device>
View<Device, float, 1> norm_gradient(Parameters<Device>& parameters, const std::string& name) {
    if (!parameters.has(name)) {
        return {nullptr, 0};
    }
    return parameters.gradient(name).flat();
}

template <class Device>
LoraLinear<Device> make_linear(const Tune& tune, Parameters<Device>& parameters, Index layer,
                               const std::string& name, Index target) {
    constexpr Index targets = 7;
    const std::string base = "model.layers." + std::to_string(layer) + "." + name;
    const std::string lora_a = adapter_name(base) + ".lora_A.weight";
    const std::string lora_b = adapter_name(base) + ".lora_B.weight";
    std::optional<LoraFactors<Device>> lora;
    if (parameters.has(lora_a)) {
        lora = LoraFactors<Device>{parameters.weight(lora_a), parameters.weight(lora_b),
                                   parameters.gradient(lora_a), parameters.gradient(lora_b)};
    }
    std::optional<View<Device, float, 2>> d_weight;
    if (parameters.has(base + ".weight")) {
        d_weight = parameters.gradient(base + ".weight");
    }
    return {lora, d_weight, static_cast<float>(tune.scale()),
            static_cast<std::uint64_t>(layer * targets + target)};
}

template View<Cpu, float, 1> norm_gradient(Parameters<Cpu>&, const std::string&);
template LoraLinear<Cpu> make_linear(const Tune&, Parameters<Cpu>&, Index, const std::string&,
                                     Index);

}  // namespace longlora
