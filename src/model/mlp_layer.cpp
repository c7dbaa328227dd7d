#include <algorithm>
#include <tuple>

#include "kernels/elementwise.hpp"
#include "kernels/rms_norm.hpp"
#include "kernels/swiglu.hpp"
#include "model/block.hpp"

namespace longlora {

template <class Device>
MlpLayer<Device>::MlpLayer(const LlamaConfig&, const Tune& tune, Parameters<Device>& parameters,
                           Index layer)
    : layer_(layer),
      gate_(make_linear(tune, parameters, layer, "mlp.gate_proj", 4)),
      up_(make_linear(tune, parameters, layer, "mlp.up_proj", 5)),
      down_(make_linear(tune, parameters, layer, "mlp.down_proj", 6)),
      d_norm_(optional_gradient(parameters, "model.layers." + std::to_string(layer) +
                                                ".post_attention_layernorm.weight")) {}

// The MLP runs over tiles of tokens, so that its working memory does not scale with the shard.
template <class Device>
typename MlpLayer<Device>::Tile MlpLayer<Device>::tile(LayerRun<Device>& run,
                                                       const LayerActivations<Device>& act,
                                                       Range rows) const {
    const Range first{0, rows.size()};
    const bool is_kept = rows.begin >= act.first_kept();
    const Range kept{rows.begin - act.first_kept(), rows.end - act.first_kept()};
    return {rows,
            run.scratch.normed.rows(first),
            is_kept ? act.gate.rows(kept) : run.scratch.mlp.gate.rows(first),
            is_kept ? act.up.rows(kept) : run.scratch.mlp.up.rows(first),
            run.scratch.mlp.product.rows(first),
            is_kept};
}

// h = rms_norm(x)
template <class Device>
void MlpLayer<Device>::normalise(LayerRun<Device>& run, const LayerWeights<Device>& weights,
                                 const LayerActivations<Device>& act,
                                 View<Device, const float, 2> x, const Tile& tile) const {
    const bool is_kept = act.normed_mlp.rows() > 0;
    rms_norm_forward(run.stream,
                     {.x = x.rows(tile.rows),
                      .weight = weights.post_attention_norm,
                      .y = tile.normed,
                      .normalised = is_kept ? act.normed_mlp.rows(tile.rows) : act.normed_mlp,
                      .rstd = act.rstd_mlp.slice(tile.rows),
                      .epsilon = run.rms_epsilon});
}

// g = gate_proj h      u = up_proj h
template <class Device>
void MlpLayer<Device>::expand(LayerRun<Device>& run, const LayerWeights<Device>& weights,
                              const Tile& tile) const {
    const auto dropout = run.dropout.at_row(tile.rows.begin);
    gate_.forward(run.stream, {.x = tile.normed, .weight = weights.gate, .y = tile.gate}, dropout,
                  run.scratch.linear);
    up_.forward(run.stream, {.x = tile.normed, .weight = weights.up, .y = tile.up}, dropout,
                run.scratch.linear);
}

// x += down_proj (silu(g) u)
template <class Device>
void MlpLayer<Device>::forward(LayerRun<Device>& run, const LayerWeights<Device>& weights,
                               const LayerActivations<Device>& act,
                               View<Device, float, 2> x) const {
    const Index tile_rows = run.scratch.mlp.gate.rows();
    for (Index begin = 0; begin < x.rows(); begin += tile_rows) {
        forward_tile(run, weights, act, x,
                     tile(run, act, {begin, std::min(x.rows(), begin + tile_rows)}));
    }
}

template <class Device>
void MlpLayer<Device>::forward_tile(LayerRun<Device>& run, const LayerWeights<Device>& weights,
                                    const LayerActivations<Device>& act, View<Device, float, 2> x,
                                    Tile tile) const {
    normalise(run, weights, act, x, tile);
    if (is_offloaded(run, tile.rows)) {
        std::tie(tile.gate, tile.up) = run.offload->begin_keep(run.stream, tile.rows);
        expand(run, weights, tile);
        run.offload->end_keep(run.stream, layer_, tile.rows);
    } else {
        expand(run, weights, tile);
    }
    swiglu_forward(run.stream, {.gate = tile.gate, .up = tile.up, .out = tile.product});
    down_.add(run.stream,
              {.x = tile.product, .weight = weights.down, .residual = x.rows(tile.rows)},
              run.dropout.at_row(tile.rows.begin), run.scratch.linear);
}

template <class Device>
void MlpLayer<Device>::recompute_norm(LayerRun<Device>& run, const LayerWeights<Device>& weights,
                                      const LayerActivations<Device>& act,
                                      View<Device, const float, 2> x) const {
    rms_norm_forward(run.stream, {.x = x,
                                  .weight = weights.post_attention_norm,
                                  .y = run.scratch.normed,
                                  .normalised = act.normed_mlp,
                                  .rstd = act.rstd_mlp,
                                  .epsilon = run.rms_epsilon});
}

template <class Device>
void MlpLayer<Device>::backward(LayerRun<Device>& run, const LayerWeights<Device>& weights,
                                const LayerActivations<Device>& act) const {
    const Index tile_rows = run.scratch.mlp.gate.rows();
    run.pieces.for_each_tile(act.normed_mlp.rows(), tile_rows, [&](Range rows) {
        Tile part = tile(run, act, rows);
        if (is_offloaded(run, rows)) {
            std::tie(part.gate, part.up) = run.offload->fetch(run.stream, layer_, rows);
            part.is_kept = true;
            backward_tile(run, weights, act, part);
            run.offload->done(run.stream);
        } else {
            backward_tile(run, weights, act, part);
        }
    });
}

// d_a = down_proj' d_x      (d_g, d_u) = swiglu'(d_a)      d_h = gate_proj' d_g + up_proj' d_u
template <class Device>
void MlpLayer<Device>::backward_tile(LayerRun<Device>& run, const LayerWeights<Device>& weights,
                                     const LayerActivations<Device>& act, const Tile& tile) const {
    auto& scratch = run.scratch;
    const Range first{0, tile.rows.size()};
    const auto dropout = run.dropout.at_row(tile.rows.begin);
    const auto d_x = scratch.d_x.rows(tile.rows);
    const auto d_product = scratch.mlp.d_product.rows(first);
    const auto d_normed = scratch.mlp.d_normed.rows(first);
    const View<Device, const Element<Device>, 2> normalised = act.normed_mlp.rows(tile.rows);
    if (!tile.is_kept || gate_.needs_input() || up_.needs_input()) {
        rms_norm_again(
            run.stream,
            {.normalised = normalised, .weight = weights.post_attention_norm, .y = tile.normed});
    }
    if (!tile.is_kept) {
        expand(run, weights, tile);
    }
    if (down_.needs_input()) {
        swiglu_forward(run.stream, {.gate = tile.gate, .up = tile.up, .out = tile.product});
    }
    const TokenPieces pieces = run.pieces.at_row(tile.rows.begin);
    down_.backward(run.stream,
                   {.d_y = as_elements(run.stream, d_x, scratch.copy, down_.fold()),
                    .x = tile.product,
                    .weight = weights.down,
                    .d_x = d_product,
                    .pieces = pieces},
                   dropout, scratch.linear);
    swiglu_backward(run.stream, {.d_out = d_product,
                                 .gate = tile.gate,
                                 .up = tile.up,
                                 .d_gate = tile.gate,
                                 .d_up = tile.up});
    gate_.backward(run.stream,
                   {.d_y = tile.gate,
                    .x = tile.normed,
                    .weight = weights.gate,
                    .d_x = d_normed,
                    .pieces = pieces},
                   dropout, scratch.linear);
    up_.backward(run.stream,
                 {.d_y = tile.up,
                  .x = tile.normed,
                  .weight = weights.up,
                  .d_x = d_normed,
                  .beta = 1,
                  .pieces = pieces},
                 dropout, scratch.linear);
    norm_backward<Device>(run.stream,
                          {.d_y = d_normed,
                           .normalised = normalised,
                           .weight = weights.post_attention_norm,
                           .rstd = act.rstd_mlp.slice(tile.rows),
                           .d_x = d_x,
                           .d_weight = {nullptr, 0}},
                          d_norm_, pieces, pieces.longest);
}

LONGLORA_INSTANTIATE(MlpLayer);

}  // namespace longlora
