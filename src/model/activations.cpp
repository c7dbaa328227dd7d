#include "model/activations.hpp"

#include <algorithm>
#include <utility>
#include <vector>

#include "kernels/attention.hpp"
#include "model/fold.hpp"

namespace longlora {
namespace {

// Working memory of the MLP and the head does not scale with T. On the CPU the head is packed for each
// tile of logits, which costs as much as 40 rows of its products: so tiles are long, up to 256 MiB. A
// GPU's products are fast only where they are large: gate, up and down of LLaMA 2 7B run at their full
// rate from some 8,192 tokens on, the head (32 to 128 thousand columns) from 1,024.
template <class Device>
struct TileSize {
    static constexpr Index mlp_rows = 8192;
    static constexpr Index head_rows = 4096;
    static constexpr Index logit_elements = Index{1} << 27U;
};
template <>
struct TileSize<Cpu> {
    static constexpr Index mlp_rows = 1024;
    static constexpr Index head_rows = 1024;
    static constexpr Index logit_elements = Index{1} << 26U;
};

template <class Device>
LayerActivations<Device> allocate_layer(Arena<Device>& arena, const LayerShape& shape,
                                        Index mlp_tokens) {
    const Index normed_tokens = shape.wants_gradients ? shape.tokens : 0;
    const LlamaConfig& config = shape.config;
    return {arena.template matrix<float>(0, config.width),
            arena.template matrix<Element<Device>>(normed_tokens, config.width),
            arena.template matrix<Element<Device>>(normed_tokens, config.width),
            arena.template vector<float>(shape.tokens),
            arena.template vector<float>(shape.tokens),
            arena.template matrix<Element<Device>>(shape.tokens, shape.qkv_width()),
            element_matrix(arena, shape.tokens, shape.q_width(), shape.attention_fold),
            arena.template matrix<float>(config.heads, shape.tokens),
            element_matrix(arena, mlp_tokens, config.mlp_width, shape.mlp_fold),
            element_matrix(arena, mlp_tokens, config.mlp_width, shape.mlp_fold)};
}

}  // namespace

template <class Device>
LayerShape layer_shape(const LlamaConfig& config, const Tune& tune, Index tokens,
                       bool wants_gradients) {
    using Size = TileSize<Device>;
    const Index tile_rows =
        std::clamp<Index>(Size::logit_elements / config.vocabulary, 32, Size::head_rows);
    return {config,
            tokens,
            std::min(tokens, Size::mlp_rows),
            std::min(tokens, tile_rows),
            tune.mode == TuneMode::full ? 0 : tune.rank,
            attention_fold<Device>(tune),
            mlp_fold<Device>(tune),
            tune.dropout > 0 && wants_gradients && tune.mode != TuneMode::full,
            wants_gradients};
}

namespace {

// Tiles of gate and up that stay in the layers before `layer`.
Index kept_before(const LayerShape& shape, const KeptActivations& kept, Index layer) {
    return layer * kept.tiles / shape.config.layers;
}

// What tokens_of(layer) are of all layers' tokens.
template <class TokensOf>
double part_of_tokens(const LayerShape& shape, const TokensOf& tokens_of) {
    Index sum = 0;
    for (Index l = 0; l < shape.config.layers; ++l) {
        sum += tokens_of(l);
    }
    return static_cast<double>(sum) / static_cast<double>(shape.config.layers * shape.tokens);
}

}  // namespace

Index LayerShape::first_kept(const KeptActivations& kept, Index layer) const {
    if (kept.policy != ActivationPolicy::recompute_mlp) {
        return kept.policy == ActivationPolicy::keep ? 0 : tokens;
    }
    const Index stay = kept_before(*this, kept, layer + 1) - kept_before(*this, kept, layer);
    return std::min(tokens, std::max<Index>(mlp_tiles() - stay, 0) * mlp_tile);
}

// As many of each layer's other tiles as of all layers'.
Index LayerShape::offloaded(const KeptActivations& kept, Index layer) const {
    const Index all = config.layers * mlp_tiles() - kept.tiles;
    if (kept.policy != ActivationPolicy::recompute_mlp || all == 0) {
        return 0;
    }
    const auto before = [&](Index l) {
        const Index others = l * mlp_tiles() - kept_before(*this, kept, l);
        return others * std::min(kept.offloaded, all) / all;
    };
    return std::min((before(layer + 1) - before(layer)) * mlp_tile, first_kept(kept, layer));
}

double LayerShape::recomputed_part(const KeptActivations& kept) const {
    return part_of_tokens(*this, [&](Index l) { return first_kept(kept, l) - offloaded(kept, l); });
}

double LayerShape::offloaded_part(const KeptActivations& kept) const {
    return part_of_tokens(*this, [&](Index l) { return offloaded(kept, l); });
}

template <class Device>
typename MlpOffload<Device>::Shape offload_shape(const LayerShape& shape,
                                                 const KeptActivations& kept) {
    std::vector<Index> tokens;
    for (Index l = 0; l < shape.config.layers; ++l) {
        tokens.push_back(shape.offloaded(kept, l));
    }
    return {std::move(tokens), shape.mlp_tile, shape.config.mlp_width, shape.mlp_fold};
}

template <class Device>
Activations<Device>::Activations(Arena<Device>& arena, const LayerShape& shape,
                                 const KeptActivations& kept)
    : policy_(kept.policy),
      residual_(arena.template matrix<float>(shape.tokens, shape.config.width)) {
    if (!shape.wants_gradients) {
        layers_.assign(static_cast<std::size_t>(shape.config.layers),
                       allocate_layer(arena, shape, 0));
        return;
    }
    for (Index l = 0; l < shape.config.layers; ++l) {
        const bool is_recomputed = policy_ == ActivationPolicy::recompute_layer;
        const Index mlp_tokens = shape.tokens - shape.first_kept(kept, l);
        layers_.push_back(is_recomputed && l > 0 ? layers_.front()
                                                 : allocate_layer(arena, shape, mlp_tokens));
        if (is_recomputed) {
            layers_.back().x = arena.template matrix<float>(shape.tokens, shape.config.width);
        }
    }
}

template <class Device>
LayerActivations<Device> Activations<Device>::transient() const {
    LayerActivations<Device> layer = layers_.front();
    layer.normed_attention = layer.normed_attention.rows({0, 0});
    layer.normed_mlp = layer.normed_mlp.rows({0, 0});
    layer.gate = layer.gate.rows({0, 0});
    layer.up = layer.up.rows({0, 0});
    return layer;
}

namespace {

// Memory for floats that are in use before d_qkv is written or after it has been read.
template <class Device>
View<Device, float, 2> beside(Arena<Device>& arena, View<Device, float, 2> d_qkv, Index rows,
                              Index columns) {
    if (stores_floats<Device> || columns > d_qkv.columns()) {
        return arena.template matrix<float>(rows, columns);
    }
    return {d_qkv.data(), rows, columns};
}

// No rows where there is no backward.
Index backward_rows(const LayerShape& shape, Index rows) {
    return shape.wants_gradients ? rows : 0;
}

}  // namespace

template <class Device>
AttentionScratch<Device>::AttentionScratch(Arena<Device>& arena, const LayerShape& shape)
    : d_qkv(arena.template matrix<float>(backward_rows(shape, shape.tokens), shape.qkv_width())),
      d_projected(with_behind(element_matrix(arena, d_qkv, 3 * shape.attention_fold),
                              3 * shape.attention_fold)),
      d_kv_behind(arena.template matrix<float>(attention_overwrites<Device> ? 0 : d_qkv.rows(),
                                               2 * shape.kv_width())),
      d_context(beside(arena, d_qkv, d_qkv.rows(), shape.q_width())),
      d_normed(beside(arena, d_qkv, d_qkv.rows(), shape.config.width)),
      delta(arena.template matrix<float>(shape.config.heads, d_qkv.rows())) {}

template <class Device>
MlpScratch<Device>::MlpScratch(Arena<Device>& arena, const LayerShape& shape)
    : gate(element_matrix(arena, shape.mlp_tile, shape.config.mlp_width, shape.mlp_fold)),
      up(element_matrix(arena, shape.mlp_tile, shape.config.mlp_width, shape.mlp_fold)),
      product(element_matrix(arena, shape.mlp_tile, shape.config.mlp_width, shape.mlp_fold)),
      d_product(arena.template matrix<float>(backward_rows(shape, shape.mlp_tile),
                                             shape.config.mlp_width)),
      d_normed(
          arena.template matrix<float>(backward_rows(shape, shape.mlp_tile), shape.config.width)) {}

template <class Device>
HeadScratch<Device>::HeadScratch(Arena<Device>& arena, const LayerShape& shape)
    : logits(arena.template matrix<float>(shape.head_tile, shape.config.vocabulary)),
      d_logits(element_matrix(arena, logits)),
      losses(arena.template vector<float>(shape.head_tile)),
      rstd(arena.template vector<float>(shape.head_tile)),
      normalised(arena.template matrix<Element<Device>>(backward_rows(shape, shape.head_tile),
                                                        shape.config.width)),
      d_normed(arena.template matrix<float>(backward_rows(shape, shape.head_tile),
                                            shape.config.width)) {}

template <class Device>
Scratch<Device>::Scratch(Arena<Device>& arena, std::size_t place, const LayerShape& shape)
    : attention(arena, shape),
      mlp(arena.from(place), shape),
      head(arena.from(place), shape),
      normed(
          element_matrix(arena.from(arena.used()), shape.tokens, shape.config.width, shape.fold())),
      d_x(arena.template matrix<float>(backward_rows(shape, shape.tokens), shape.config.width)),
      copy(arena.template vector<Element<Device>>(copy_size<Device>(
          d_x.rows() * std::max(shape.config.width + shape.fold(), shape.q_width())))),
      loss_sum(arena.template vector<std::int64_t>(2)),
      cosine(arena.template matrix<float>(shape.tokens, shape.config.head_dim / 2)),
      sine(arena.template matrix<float>(shape.tokens, shape.config.head_dim / 2)),
      linear(arena, {std::max(shape.tokens, shape.mlp_tile), shape.lora_rank,
                     shape.has_dropout ? shape.linear_width() : 0}) {}

#define LONGLORA_INSTANTIATE_FUNCTION(Device)                                              \
    template LayerShape layer_shape<Device>(const LlamaConfig&, const Tune&, Index, bool); \
    template MlpOffload<Device>::Shape offload_shape<Device>(const LayerShape&,            \
                                                             const KeptActivations&);
LONGLORA_FOR_EACH_DEVICE(LONGLORA_INSTANTIATE_FUNCTION)
LONGLORA_INSTANTIATE(Activations);
LONGLORA_INSTANTIATE(AttentionScratch);
LONGLORA_INSTANTIATE(MlpScratch);
LONGLORA_INSTANTIATE(HeadScratch);
LONGLORA_INSTANTIATE(Scratch);

}  // namespace longlora
