#pragma once

#include <vector>

#include "model/block.hpp"

namespace longlora {

// The tokens of one shard and their labels (the next tokens; -100 is ignored).
template <class Device>
struct ShardInput {
    View<Device, const std::int32_t, 1> tokens;  // (T)
    View<Device, const std::int32_t, 1> labels;  // (T)
};

template <class Device>
struct LossInput {
    View<Device, const float, 2> last;           // (T, E)
    View<Device, const std::int32_t, 1> labels;  // (T)
    float scale;                                 // 1 / labels of the whole step
    bool wants_gradient;
};

// A LLaMA as explicit forward and backward over one shard at a time; who holds which shard and when
// it is computed is the schedule's business.
template <class Device>
class Llama {
public:
    // parameters and store must outlive the model.
    Llama(const LlamaConfig& config, const Tune& tune, Parameters<Device>& parameters,
          const WeightStore<Device>& store);

    const LlamaConfig& config() const { return config_; }

    // Fills the rotary table for a shard that starts at `first_position`.
    void set_position(const Stream<Device>& stream, Scratch<Device>& scratch,
                      Index first_position) const;

    // First pass: K/V of every layer are kept where later chunks need them, nothing else.
    void forward_keep(LayerRun<Device>& run, const ShardInput<Device>& input,
                      const Activations<Device>& act, ContextExchange<Device>& exchange) const;
    // All layers; activations stay as the policy says; the result is act.residual().
    void forward(LayerRun<Device>& run, const ShardInput<Device>& input,
                 const Activations<Device>& act, ContextExchange<Device>& exchange) const;
    // All layers with nothing kept (evaluation); the result is act.residual().
    void forward_only(LayerRun<Device>& run, const ShardInput<Device>& input,
                      const Activations<Device>& act, ContextExchange<Device>& exchange) const;

    // h = rms_norm(last)   logits = h W'   for some rows of `last`, no more than scratch.head.logits has;
    // scratch.normed and scratch.head.rstd keep h and the norm's statistics.
    View<Device, float, 2> logits(LayerRun<Device>& run, View<Device, const float, 2> last) const;

    // Sum of the labels' losses, not scaled: each is rounded to a multiple of 2^-26, so that sums up
    // to 10^8 are exact in any order; NaN where one is not finite. Waits for the device. With wants_gradient scratch.d_x becomes the gradient of `last`
    // (the residual stream after the last layer) times the scale, and the gradients of the final
    // norm and of a trained head are added to.
    double loss(LayerRun<Device>& run, const LossInput<Device>& input) const;

    // From scratch.d_x back to every trainable's gradient.
    void backward(LayerRun<Device>& run, const ShardInput<Device>& input,
                  const Activations<Device>& act, ContextExchange<Device>& exchange) const;

private:
    void loss_tile(LayerRun<Device>& run, const LossInput<Device>& input, Range rows) const;
    void loss_backward(LayerRun<Device>& run, Range rows,
                       View<Device, const Element<Device>, 2> d_logits) const;
    void forward_layer(LayerRun<Device>& run, const LayerActivations<Device>& act,
                       ContextExchange<Device>& exchange, Index layer,
                       View<Device, float, 2> x) const;

    LlamaConfig config_;
    const WeightStore<Device>& store_;
    std::vector<AttentionLayer<Device>> attention_;
    std::vector<MlpLayer<Device>> mlp_;
    OptionalGradient<Device> d_embedding_;
    OptionalGradient<Device> d_norm_;
    OptionalGradient<Device> d_head_;  // d_embedding_ where tied
};

}  // namespace longlora
