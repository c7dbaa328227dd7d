#include "model/llama.hpp"

#include <algorithm>
#include <array>
#include <limits>

#include "core/progress_point.hpp"
#include "core/transfer.hpp"
#include "kernels/cross_entropy.hpp"
#include "kernels/elementwise.hpp"
#include "kernels/embedding.hpp"
#include "kernels/rms_norm.hpp"
#include "kernels/rope.hpp"

namespace longlora {

template <class Device>
Llama<Device>::Llama(const LlamaConfig& config, const Tune& tune, Parameters<Device>& parameters,
                     const WeightStore<Device>& store)
    : config_(config),
      store_(store),
      d_embedding_(optional_gradient(parameters, embedding_name)),
      d_norm_(optional_gradient(parameters, "model.norm.weight")),
      d_head_(config.is_tied ? d_embedding_ : optional_gradient(parameters, head_name)) {
    for (Index l = 0; l < config.layers; ++l) {
        attention_.emplace_back(config, tune, parameters, l);
        mlp_.emplace_back(config, tune, parameters, l);
    }
}

template <class Device>
void Llama<Device>::set_position(const Stream<Device>& stream, Scratch<Device>& scratch,
                                 Index first_position) const {
    rotary_table(stream, {.first_position = first_position,
                          .theta = config_.rope_theta,
                          .factor = config_.rope.type == "linear" ? config_.rope.factor : 1.0,
                          .cosine = scratch.cosine,
                          .sine = scratch.sine});
}

template <class Device>
void Llama<Device>::forward_layer(LayerRun<Device>& run, const LayerActivations<Device>& act,
                                  ContextExchange<Device>& exchange, Index layer,
                                  View<Device, float, 2> x) const {
    progress_point().layer = layer;
    const auto weights = store_.acquire(layer);
    const auto l = static_cast<std::size_t>(layer);
    attention_[l].forward(run, weights, act, exchange, x);
    mlp_[l].forward(run, weights, act, x);
}

template <class Device>
void Llama<Device>::forward_keep(LayerRun<Device>& run, const ShardInput<Device>& input,
                                 const Activations<Device>& act,
                                 ContextExchange<Device>& exchange) const {
    const auto layer = act.transient();
    const auto x = act.residual();
    embedding_forward(run.stream,
                      {.tokens = input.tokens, .table = store_.ends().embedding, .x = x});
    for (Index l = 0; l + 1 < config_.layers; ++l) {
        forward_layer(run, layer, exchange, l, x);
    }
    const Index last = config_.layers - 1;
    progress_point().layer = last;
    attention_[static_cast<std::size_t>(last)].forward_keys_values(run, store_.acquire(last), layer,
                                                                   exchange, x);
    progress_point().layer = -1;
}

template <class Device>
void Llama<Device>::forward(LayerRun<Device>& run, const ShardInput<Device>& input,
                            const Activations<Device>& act,
                            ContextExchange<Device>& exchange) const {
    const auto x = act.residual();
    embedding_forward(run.stream,
                      {.tokens = input.tokens, .table = store_.ends().embedding, .x = x});
    for (Index l = 0; l < config_.layers; ++l) {
        if (act.policy() == ActivationPolicy::recompute_layer) {
            copy(run.stream, {.x = x, .out = act.layer(l).x});
        }
        forward_layer(run, act.layer(l), exchange, l, x);
    }
    progress_point().layer = -1;
}

template <class Device>
void Llama<Device>::forward_only(LayerRun<Device>& run, const ShardInput<Device>& input,
                                 const Activations<Device>& act,
                                 ContextExchange<Device>& exchange) const {
    const auto layer = act.transient();
    const auto x = act.residual();
    embedding_forward(run.stream,
                      {.tokens = input.tokens, .table = store_.ends().embedding, .x = x});
    for (Index l = 0; l < config_.layers; ++l) {
        forward_layer(run, layer, exchange, l, x);
    }
    progress_point().layer = -1;
}

template <class Device>
double Llama<Device>::loss(LayerRun<Device>& run, const LossInput<Device>& input) const {
    if (input.wants_gradient) {
        clear(run.stream, run.scratch.d_x.flat());
    }
    clear(run.stream, run.scratch.loss_sum);
    run.pieces.for_each_tile(input.last.rows(), run.scratch.head.logits.rows(),
                             [&](Range rows) { loss_tile(run, input, rows); });
    std::array<std::int64_t, 2> sum{};
    download<Device, std::int64_t>(run.stream, run.scratch.loss_sum, sum);
    return sum[1] == 0 ? static_cast<double>(sum[0]) / loss_one
                       : std::numeric_limits<double>::quiet_NaN();
}

template <class Device>
View<Device, float, 2> Llama<Device>::logits(LayerRun<Device>& run,
                                             View<Device, const float, 2> last) const {
    const Range rows{0, last.rows()};
    const auto h = run.scratch.normed.rows(rows);
    const auto out = run.scratch.head.logits.rows(rows);
    const auto& normed = run.scratch.head.normalised;
    const auto kept = normed.rows() > 0 ? normed.rows(rows) : normed;
    rms_norm_forward(run.stream, {.x = last,
                                  .weight = store_.ends().norm,
                                  .y = h,
                                  .normalised = kept,
                                  .rstd = run.scratch.head.rstd.slice(rows),
                                  .epsilon = run.rms_epsilon});
    matmul(run.stream, {.a = h, .b = transposed(store_.ends().head), .out = out});
    return out;
}

// A tile at a time: no [T, V] array exists.
template <class Device>
void Llama<Device>::loss_tile(LayerRun<Device>& run, const LossInput<Device>& input,
                              Range rows) const {
    const auto logits = this->logits(run, input.last.rows(rows));
    const auto losses = run.scratch.head.losses.slice({0, rows.size()});
    const auto d_logits = run.scratch.head.d_logits.rows({0, rows.size()});
    cross_entropy(run.stream, {.logits = logits,
                               .labels = input.labels.slice(rows),
                               .loss = losses,
                               .scale = input.scale,
                               .wants_gradient = input.wants_gradient,
                               .d_logits = d_logits});
    loss_sum(run.stream, {.loss = losses, .sum = run.scratch.loss_sum});
    if (input.wants_gradient) {
        loss_backward(run, rows, d_logits);
    }
}

// d_h = d_logits W   d_W += d_logits' h
template <class Device>
void Llama<Device>::loss_backward(LayerRun<Device>& run, Range rows,
                                  View<Device, const Element<Device>, 2> d_logits) const {
    auto& scratch = run.scratch;
    const auto& ends = store_.ends();
    const Range first{0, rows.size()};
    const TokenPieces pieces = run.pieces.at_row(rows.begin);
    const Index most = std::min(scratch.head.logits.rows(), pieces.longest);
    const auto d_h = scratch.head.d_normed.rows(first);
    matmul(run.stream, {.a = d_logits, .b = ends.head, .out = d_h});
    if (d_head_) {
        pieces.for_each(
            rows.size(),
            [&](Range piece) {
                const View<Device, const Element<Device>, 2> h = scratch.normed.rows(piece);
                matmul(run.stream,
                       {.a = transposed(d_logits.rows(piece)), .b = h, .out = d_head_->addend});
                d_head_->commit(run.stream, piece.size());
            },
            most);
    }
    norm_backward<Device>(run.stream,
                          {.d_y = d_h,
                           .normalised = scratch.head.normalised.rows(first),
                           .weight = ends.norm,
                           .rstd = scratch.head.rstd.slice(first),
                           .d_x = scratch.d_x.rows(rows),
                           .d_weight = {nullptr, 0}},
                          d_norm_, pieces, most);
}

template <class Device>
void Llama<Device>::backward(LayerRun<Device>& run, const ShardInput<Device>& input,
                             const Activations<Device>& act,
                             ContextExchange<Device>& exchange) const {
    if (run.offload != nullptr) {
        run.offload->begin_fetch(run.stream, run.pieces, act.residual().rows());
    }
    for (Index l = config_.layers - 1; l >= 0; --l) {
        progress_point().layer = l;
        const auto weights = store_.acquire(l);
        const auto& layer = act.layer(l);
        const auto index = static_cast<std::size_t>(l);
        if (act.policy() == ActivationPolicy::recompute_layer) {
            const auto x = act.residual();
            copy(run.stream, {.x = layer.x, .out = x});
            attention_[index].recompute(run, weights, layer, exchange, x);
            mlp_[index].recompute_norm(run, weights, layer, x);
        }
        mlp_[index].backward(run, weights, layer);
        attention_[index].backward(run, weights, layer, exchange);
    }
    progress_point().layer = -1;
    if (d_embedding_) {
        embedding_gradient(run.stream, {.tokens = input.tokens,
                                        .d_x = run.scratch.d_x,
                                        .sum = d_embedding_->sum,
                                        .largest = d_embedding_->largest_addend(1),
                                        .refused = d_embedding_->refused});
    }
}

LONGLORA_INSTANTIATE(Llama);

}  // namespace longlora
