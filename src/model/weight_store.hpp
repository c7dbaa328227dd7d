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

// One tensor that the store has memory for.
struct PlacedTensor {
    TensorShape shape;
    Index offset;    // elements, among those of its kind
    bool is_float;   // norms and embeddings; matrices are of the storage type
    bool is_copy;    // of a trained tensor that products cannot read as it is
    Index fold = 0;  // so many more columns and rows hold LoRA's factors (model/fold.hpp)

    // Elements that it takes.
    Index size() const {
        return fold == 0 ? shape.size() : (shape.rows + fold) * (shape.columns + fold);
    }
};

// Hands out a layer's weights as a lease. Resident: everything is in this rank's memory and a lease
// is a set of views; other placements (sharded, quantised) gather behind the same interface.
template <class Device>
class WeightStore {
public:
    // Reads what is frozen from `base`; what is trained is in `parameters`, which must outlive this.
    WeightStore(const Stream<Device>& stream, const BaseWeights& base, const Tune& tune,
                Parameters<Device>& parameters);

    LayerWeights<Device> acquire(Index layer) const {
        return layers_[static_cast<std::size_t>(layer)];
    }
    const EndWeights<Device>& ends() const { return ends_; }

    // After trained weights have changed: copies of them in the storage type are made anew, LoRA's
    // factors in folded weights too.
    void refresh(const Stream<Device>& stream);

    // Bytes beside the trainables for a model and what is trained of it.
    static std::size_t bytes(const LlamaConfig& config, const Tune& tune);

private:
    void read(const Stream<Device>& stream, const BaseWeights& base);
    void refresh_factors(const Stream<Device>& stream, const PlacedTensor& tensor);
    View<Device, Element<Device>, 2> place_of(const PlacedTensor& tensor);
    const PlacedTensor* find(const std::string& name, bool is_float) const;
    View<Device, const float, 2> floats(const std::string& name) const;
    View<Device, const Element<Device>, 2> matrix(const std::string& name) const;

    Parameters<Device>& parameters_;
    Tune tune_;
    bool is_tied_;
    std::vector<PlacedTensor> stored_;
    Buffer<Device, float> floats_;
    Buffer<Device, Element<Device>> matrices_;
    std::vector<LayerWeights<Device>> layers_;
    EndWeights<Device> ends_;
};

}  // namespace longlora
