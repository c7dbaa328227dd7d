#pragma once

#include <algorithm>
#include <vector>

#include "core/arena.hpp"
#include "io/llama_config.hpp"
#include "model/lora_linear.hpp"
#include "model/mlp_offload.hpp"
#include "model/tune.hpp"

namespace longlora {

// What of a layer's forward stays in memory until its backward. The leaner the policy, the more of
// the forward is computed twice; prefer more chunks to recompute_layer.
enum class ActivationPolicy { keep, recompute_mlp, recompute_layer };

// What all layers keep. Tiles are the MLP's, of LayerShape::mlp_tile tokens.
struct KeptActivations {
    KeptActivations(ActivationPolicy of_all, Index but = 0) : policy(of_all), tiles(but) {}

    ActivationPolicy policy;
    // With recompute_mlp, so many tiles of gate and up stay all the same, of all layers together.
    Index tiles;
    // Of the others so many wait on the host (model/mlp_offload.hpp).
    Index offloaded = 0;
};

// What a layer's backward needs. Rows are the tokens of the shard.
template <class Device>
struct LayerActivations {
    View<Device, float, 2> x;  // (T, E) residual stream into the layer, where it is recomputed
    // (T, E) n of the two norms (kernels/rms_norm.hpp); no rows where there is no backward
    View<Device, Element<Device>, 2> normed_attention;
    View<Device, Element<Device>, 2> normed_mlp;
    View<Device, float, 1> rstd_attention;     // (T)
    View<Device, float, 1> rstd_mlp;           // (T)
    View<Device, Element<Device>, 2> qkv;      // (T, (H + 2 Hkv) D) after RoPE
    View<Device, Element<Device>, 2> context;  // (T, H D) attention output
    View<Device, float, 2> lse;                // (H, T)
    // Of the last tokens, as many as there are rows: gate and up of the others are recomputed, or wait on
    // the host.
    View<Device, Element<Device>, 2> gate;  // (tokens, F)
    View<Device, Element<Device>, 2> up;    // (tokens, F)

    Index first_kept() const { return rstd_mlp.size() - gate.rows(); }
};

// Sizes of one layer's work on one shard.
struct LayerShape {
    LlamaConfig config;
    Index tokens;     // T
    Index mlp_tile;   // tokens that the MLP handles at a time
    Index head_tile;  // tokens whose logits exist at a time
    Index lora_rank;  // 0 without LoRA
    // Columns behind the operands of folded layers (model/fold.hpp); 0: there are none.
    Index attention_fold;
    Index mlp_fold;
    bool has_dropout;
    bool wants_gradients;

    Index q_width() const { return config.heads * config.head_dim; }
    Index kv_width() const { return config.kv_heads * config.head_dim; }
    Index qkv_width() const { return q_width() + 2 * kv_width(); }
    // The most inputs of a linear layer.
    Index linear_width() const { return std::max({config.width, q_width(), config.mlp_width}); }
    Index fold() const { return std::max(attention_fold, mlp_fold); }

    Index mlp_tiles() const { return ceil_div(tokens, mlp_tile); }  // of one layer
    // The first of a layer's tokens whose gate and up stay, to the last one. Tiles that stay are spread
    // evenly over the layers, so that copies of the others to the host and back have as much time in each.
    // Where a tile of backward, which has whole pieces, begins before it and ends behind it, all of that
    // tile is recomputed.
    Index first_kept(const KeptActivations& kept, Index layer) const;
    // Of a layer's tokens so many wait on the host, the first.
    Index offloaded(const KeptActivations& kept, Index layer) const;
    // Of all layers' tokens, the parts whose gate and up are computed again, and wait on the host.
    double recomputed_part(const KeptActivations& kept) const;
    double offloaded_part(const KeptActivations& kept) const;
};

template <class Device>
LayerShape layer_shape(const LlamaConfig& config, const Tune& tune, Index tokens,
                       bool wants_gradients);

template <class Device>
typename MlpOffload<Device>::Shape offload_shape(const LayerShape& shape,
                                                 const KeptActivations& kept);

// Kept activations of all layers, allocated once.
template <class Device>
class Activations {
public:
    Activations(Arena<Device>& arena, const LayerShape& shape, const KeptActivations& kept);

    ActivationPolicy policy() const { return policy_; }
    const LayerActivations<Device>& layer(Index l) const {
        return layers_[static_cast<std::size_t>(l)];
    }
    // For a forward that keeps nothing: one layer's memory.
    LayerActivations<Device> transient() const;
    // (T, E) the residual stream, updated in place: after a forward that behind the last layer
    View<Device, float, 2> residual() const { return residual_; }

private:
    ActivationPolicy policy_;
    std::vector<LayerActivations<Device>> layers_;
    View<Device, float, 2> residual_;
};

// Attention's backward.
template <class Device>
class AttentionScratch {
public:
    AttentionScratch(Arena<Device>& arena, const LayerShape& shape);

    View<Device, float, 2> d_qkv;  // (T, (H + 2 Hkv) D) as attention sums it
    // (T, (H + 2 Hkv) D + 3 P) turned back, P columns behind each of q, k and v; d_qkv's memory where
    // floats are stored
    View<Device, Element<Device>, 2> d_projected;
    // (T, 2 Hkv D) dK and dV by later tokens' squares, or no rows where they are added to the triangles'
    View<Device, float, 2> d_kv_behind;
    // (T, H D) and (T, E), in d_qkv's memory where the first has been copied before d_qkv is written, and
    // d_qkv before the second is
    View<Device, float, 2> d_context;
    View<Device, float, 2> d_normed;
    View<Device, float, 2> delta;  // (H, T)
};

// A tile of the MLP.
template <class Device>
class MlpScratch {
public:
    MlpScratch(Arena<Device>& arena, const LayerShape& shape);

    View<Device, Element<Device>, 2> gate;     // (mlp_tile, F)
    View<Device, Element<Device>, 2> up;       // (mlp_tile, F)
    View<Device, Element<Device>, 2> product;  // (mlp_tile, F)  a = g sig(g) u
    View<Device, float, 2> d_product;          // (mlp_tile, F)
    View<Device, float, 2> d_normed;           // (mlp_tile, E)
};

// A tile of the head.
template <class Device>
class HeadScratch {
public:
    HeadScratch(Arena<Device>& arena, const LayerShape& shape);

    View<Device, float, 2> logits;  // (head_tile, V)
    View<Device, Element<Device>, 2>
        d_logits;                   // (head_tile, V) logits' memory where floats are stored
    View<Device, float, 1> losses;  // (head_tile)
    View<Device, float, 1> rstd;    // (head_tile)
    View<Device, Element<Device>, 2> normalised;  // (head_tile, E), or no rows
    View<Device, float, 2> d_normed;              // (head_tile, E)
};

// Working memory that no one needs after a layer has ended; one set for all layers. Attention's backward,
// the MLP and the head come one after another: they have the same memory. What is an operand of a folded
// layer has P more columns behind it, as context, gate and up above.
template <class Device>
class Scratch {
public:
    Scratch(Arena<Device>& arena, const LayerShape& shape) : Scratch(arena, arena.used(), shape) {}

    AttentionScratch<Device> attention;
    MlpScratch<Device> mlp;
    HeadScratch<Device> head;
    View<Device, Element<Device>, 2> normed;  // (T, E)   h
    View<Device, float, 2> d_x;               // (T, E) gradient of the residual stream
    View<Device, Element<Device>, 1> copy;    // for as_elements: (T max(E + P, H D)), or nothing
    View<Device, std::int64_t, 1> loss_sum;   // (2)
    View<Device, float, 2> cosine;            // (T, D/2)
    View<Device, float, 2> sine;              // (T, D/2)
    LinearScratch<Device> linear;

private:
    Scratch(Arena<Device>& arena, std::size_t place, const LayerShape& shape);
};

}  // namespace longlora
