#include "core/transfer.hpp"
#include "io/adapter.hpp"
#include "model/block.hpp"
#include "model/fold.hpp"

namespace longlora {

template <class Device>
OptionalGradient<Device> optional_gradient(Parameters<Device>& parameters,
                                           const std::string& name) {
    if (!parameters.has(name)) {
        return std::nullopt;
    }
    return parameters.gradient(name);
}

// g = dy w     d_x += r (g - n mean(g n))     d_weight: see kernels/rms_norm.hpp
template <class Device>
void norm_backward(const Stream<Device>& stream, const RmsNormBackward<Device>& op,
                   const OptionalGradient<Device>& gradient, const TokenPieces& pieces,
                   Index most) {
    if (!gradient) {
        rms_norm_backward(stream, op);
        return;
    }
    pieces.for_each(
        op.d_x.rows(),
        [&](Range rows) {
            const auto d_weight = gradient->addend.flat();
            clear(stream, d_weight);
            rms_norm_backward(stream, {.d_y = op.d_y.rows(rows),
                                       .normalised = op.normalised.rows(rows),
                                       .weight = op.weight,
                                       .rstd = op.rstd.slice(rows),
                                       .d_x = op.d_x.rows(rows),
                                       .d_weight = d_weight});
            gradient->commit(stream, rows.size());
        },
        most);
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
    std::optional<GradientSum<Device>> d_weight;
    if (parameters.has(base + ".weight")) {
        d_weight = parameters.gradient(base + ".weight");
    }
    return {lora, d_weight, static_cast<float>(tune.scale()),
            static_cast<std::uint64_t>(layer * targets + target),
            lora ? fold_columns<Device>(tune) : 0};
}

#define LONGLORA_INSTANTIATE_FUNCTIONS(Device)                                                    \
    template OptionalGradient<Device> optional_gradient(Parameters<Device>&, const std::string&); \
    template void norm_backward(const Stream<Device>&, const RmsNormBackward<Device>&,            \
                                const OptionalGradient<Device>&, const TokenPieces&, Index);      \
    template LoraLinear<Device> make_linear(const Tune&, Parameters<Device>&, Index,              \
                                            const std::string&, Index);
LONGLORA_FOR_EACH_DEVICE(LONGLORA_INSTANTIATE_FUNCTIONS)

}  // namespace longlora
