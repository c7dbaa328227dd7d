#pragma once

#include "kernels/rms_norm.hpp"
#include "model/activations.hpp"
#include "model/context_exchange.hpp"
#include "model/parameters.hpp"
#include "model/weight_store.hpp"

namespace longlora {

// What every layer of a forward or backward shares.
template <class Device>
struct LayerRun {
    const Stream<Device>& stream;
    Scratch<Device>& scratch;
    DropoutPlan dropout;  // first_position is the shard's
    float rms_epsilon;
    TokenPieces pieces = {};                // of the shard's tokens
    MlpOffload<Device>* offload = nullptr;  // where something of it waits for a backward
};

// Nothing where the tensor is frozen.
template <class Device>
using OptionalGradient = std::optional<GradientSum<Device>>;

template <class Device>
OptionalGradient<Device> optional_gradient(Parameters<Device>& parameters, const std::string& name);

// rms_norm_backward with the weight's gradient summed by pieces; op.d_weight is empty;
// no piece is longer than `most`.
template <class Device>
void norm_backward(const Stream<Device>& stream, const RmsNormBackward<Device>& op,
                   const OptionalGradient<Device>& gradient, const TokenPieces& pieces, Index most);

// x += o_proj(attention(rope(q_proj h), rope(k_proj h), v_proj h)),   h = rms_norm(x)
// x (T, E) is the residual stream, updated in place.
template <class Device>
class AttentionLayer {
public:
    AttentionLayer(const LlamaConfig& config, const Tune& tune, Parameters<Device>& parameters,
                   Index layer);

    void forward(LayerRun<Device>& run, const LayerWeights<Device>& weights,
                 const LayerActivations<Device>& act, ContextExchange<Device>& exchange,
                 View<Device, float, 2> x) const;
    // K and V alone: all that a first pass needs of the last layer.
    void forward_keys_values(LayerRun<Device>& run, const LayerWeights<Device>& weights,
                             const LayerActivations<Device>& act, ContextExchange<Device>& exchange,
                             View<Device, float, 2> x) const;
    // Forward again, with the left context that was received the first time.
    void recompute(LayerRun<Device>& run, const LayerWeights<Device>& weights,
                   const LayerActivations<Device>& act, ContextExchange<Device>& exchange,
                   View<Device, float, 2> x) const;
    // d_x (in scratch) holds the gradient of the new x and becomes that of the old.
    void backward(LayerRun<Device>& run, const LayerWeights<Device>& weights,
                  const LayerActivations<Device>& act, ContextExchange<Device>& exchange) const;

private:
    template <class T>
    View<Device, T, 2> q_of(View<Device, T, 2> qkv) const;
    template <class T>
    View<Device, T, 2> k_of(View<Device, T, 2> qkv, Index behind = 0) const;
    template <class T>
    View<Device, T, 2> v_of(View<Device, T, 2> qkv, Index behind = 0) const;
    void project(LayerRun<Device>& run, const LayerWeights<Device>& weights,
                 const LayerActivations<Device>& act, View<Device, const float, 2> x,
                 bool wants_q) const;
    // wait_block(i): the i-th block of left context, once it is there.
    template <class WaitBlock>
    void attend(LayerRun<Device>& run, const LayerActivations<Device>& act,
                ContextExchange<Device>& exchange, const WaitBlock& wait_block) const;
    void project_out(LayerRun<Device>& run, const LayerWeights<Device>& weights,
                     const LayerActivations<Device>& act, View<Device, float, 2> x) const;
    struct BackwardPart {
        View<Device, const Element<Device>, 2> d_context;
        KeyValueBlock<Device> block;
        std::span<const AttentionItem> items;
        KeyValuePair<Device, float> to;
        bool overwrites = false;
    };
    void attend_part(LayerRun<Device>& run, const LayerActivations<Device>& act,
                     const BackwardPart& part) const;
    void attend_backward(LayerRun<Device>& run, const LayerActivations<Device>& act,
                         ContextExchange<Device>& exchange) const;
    void project_backward(LayerRun<Device>& run, const LayerWeights<Device>& weights,
                          const LayerActivations<Device>& act) const;

    LlamaConfig config_;
    Index layer_;
    Index fold_;  // P of this half of the layer (model/fold.hpp)
    LoraLinear<Device> q_, k_, v_, o_;
    OptionalGradient<Device> d_norm_;
};

// x += down_proj(silu(gate_proj h) * up_proj h),   h = rms_norm(x)
template <class Device>
class MlpLayer {
public:
    MlpLayer(const LlamaConfig& config, const Tune& tune, Parameters<Device>& parameters,
             Index layer);

    void forward(LayerRun<Device>& run, const LayerWeights<Device>& weights,
                 const LayerActivations<Device>& act, View<Device, float, 2> x) const;
    // The norm alone: what backward needs where the layer is recomputed.
    void recompute_norm(LayerRun<Device>& run, const LayerWeights<Device>& weights,
                        const LayerActivations<Device>& act, View<Device, const float, 2> x) const;
    // d_x (in scratch) holds the gradient of the new x and becomes that of the old.
    void backward(LayerRun<Device>& run, const LayerWeights<Device>& weights,
                  const LayerActivations<Device>& act) const;

private:
    struct Tile {
        Range rows;
        View<Device, Element<Device>, 2> normed, gate, up, product;
        bool is_kept;  // gate and up, from forward to backward
    };
    Tile tile(LayerRun<Device>& run, const LayerActivations<Device>& act, Range rows) const;
    bool is_offloaded(const LayerRun<Device>& run, Range rows) const {
        return run.offload != nullptr && run.offload->takes(layer_, rows);
    }
    void forward_tile(LayerRun<Device>& run, const LayerWeights<Device>& weights,
                      const LayerActivations<Device>& act, View<Device, float, 2> x,
                      Tile tile) const;
    void expand(LayerRun<Device>& run, const LayerWeights<Device>& weights, const Tile& tile) const;
    void normalise(LayerRun<Device>& run, const LayerWeights<Device>& weights,
                   const LayerActivations<Device>& act, View<Device, const float, 2> x,
                   const Tile& tile) const;
    void backward_tile(LayerRun<Device>& run, const LayerWeights<Device>& weights,
                       const LayerActivations<Device>& act, const Tile& tile) const;

    Index layer_;
    LoraLinear<Device> gate_, up_, down_;
    OptionalGradient<Device> d_norm_;
};

// The linear layer `name` ("self_attn.q_proj") of layer `layer`, with what of it is trained.
template <class Device>
LoraLinear<Device> make_linear(const Tune& tune, Parameters<Device>& parameters, Index layer,
                               const std::string& name, Index target);

}  // namespace longlora
