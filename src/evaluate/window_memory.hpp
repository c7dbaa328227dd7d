#pragma once

#include "model/activations.hpp"
#include "model/context_exchange.hpp"

namespace longlora {

struct WindowBytes {
    std::size_t arena = 0;
    std::size_t host = 0;  // pinned, beside a GPU's
};

// Memory and plan for windows of one length.
template <class Device>
struct WindowMemory {
    WindowMemory(Arena<Device>& arena, const LlamaConfig& config, const Tune& tune,
                 const Layout& layout, Index rank)
        : shape(layer_shape<Device>(config, tune, layout.shard_length(), false)),
          exchange(arena,
                   {layout, {config.heads, config.kv_heads}, config.head_dim, config.layers, false},
                   rank),
          activations(arena, shape, ActivationPolicy::recompute_layer),
          scratch(arena, shape),
          tokens(arena.template vector<std::int32_t>(layout.shard_length())),
          labels(arena.template vector<std::int32_t>(layout.shard_length())) {}

    static WindowBytes bytes(const LlamaConfig& config, const Tune& tune, const Layout& layout,
                             Index rank) {
        auto measuring = Arena<Device>::measuring("evaluation");
        const WindowMemory sized(measuring, config, tune, layout, rank);
        return {measuring.used(), sized.exchange.host_bytes()};
    }

    LayerShape shape;
    ContextExchange<Device> exchange;
    Activations<Device> activations;
    Scratch<Device> scratch;
    View<Device, std::int32_t, 1> tokens;
    View<Device, std::int32_t, 1> labels;
};

}  // namespace longlora
