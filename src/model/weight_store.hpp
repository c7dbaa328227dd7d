#pragma once

#include <string>
#include <vector>

#include "core/arena.hpp"
#include "model/base_weights.hpp"
#include "model/parameters.hpp"

namespace longlora {

// The weights of one layer, frozen or trained: what forward and backward multiply with.
template <class Device>
struct LayerWeights {
    View<Device, const float, 1> input_norm;
    View<Device, const float, 1> post_attention_norm;
    View<Device, const Element<Device>, 2> q, k, v, o;      // (out, in)
    View<Device, const Element<Device>, 2> gate, up, down;  // (out, in)
};

// The weights outside the layers.
template <class Device>
struct EndWeights {
    View<Device, const float, 2> embedding;       // (V, E)
    View<Device, const float, 1> norm;            // (E)
    View<Device, const Element<Device>, 2> head;  // (V, E); the embedding where tied
};

// Hands out a layer's weights as a lease. Resident: everything is in this rank's memory and a lease
// is a set of views; other placements (sharded, quantised) gather behind the same interface.
template <class Device>
class WeightStore {
public:
    // Reads what is frozen from `base`; what is trained is in `parameters`, which must outlive this.
    WeightStore(const BaseWeights& base, Parameters<Device>& parameters);

    LayerWeights<Device> acquire(Index layer) const {
        return layers_[static_cast<std::size_t>(layer)];
    }
    const EndWeights<Device>& ends() const { return ends_; }

    // Bytes of frozen weights for a model and what is trained of it.
    static std::size_t frozen_bytes(const LlamaConfig& config, const Tune& tune);

private:
    View<Device, const float, 2> find(const std::string& name,
                                      Parameters<Device>& parameters) const;

    std::vector<Parameter> frozen_;
    Buffer<Device, float> memory_;
    std::vector<LayerWeights<Device>> layers_;
    EndWeights<Device> ends_;
};

}  // namespace longlora
