#include "core/transfer.hpp"
#include "kernels/elementwise.hpp"
#include "kernels/rms_norm.hpp"
#include "kernels/rope.hpp"
#include "model/block.hpp"
#include "model/fold.hpp"

namespace longlora {

template <class Device>
AttentionLayer<Device>::AttentionLayer(const LlamaConfig& config, const Tune& tune,
                                       Parameters<Device>& parameters, Index layer)
    : config_(config),
      layer_(layer),
      fold_(attention_fold<Device>(tune)),
      q_(make_linear(tune, parameters, layer, "self_attn.q_proj", 0)),
      k_(make_linear(tune, parameters, layer, "self_attn.k_proj", 1)),
      v_(make_linear(tune, parameters, layer, "self_attn.v_proj", 2)),
      o_(make_linear(tune, parameters, layer, "self_attn.o_proj", 3)),
      d_norm_(optional_gradient(
          parameters, "model.layers." + std::to_string(layer) + ".input_layernorm.weight")) {}

// A packed buffer holds q, k and v side by side, with `behind` more columns behind each.
template <class Device>
template <class T>
View<Device, T, 2> AttentionLayer<Device>::q_of(View<Device, T, 2> qkv) const {
    return qkv.columns({0, config_.heads * config_.head_dim});
}

template <class Device>
template <class T>
View<Device, T, 2> AttentionLayer<Device>::k_of(View<Device, T, 2> qkv, Index behind) const {
    const Index begin = config_.heads * config_.head_dim + behind;
    return qkv.columns({begin, begin + config_.kv_heads * config_.head_dim});
}

template <class Device>
template <class T>
View<Device, T, 2> AttentionLayer<Device>::v_of(View<Device, T, 2> qkv, Index behind) const {
    const Index begin = (config_.heads + config_.kv_heads) * config_.head_dim + 2 * behind;
    return qkv.columns({begin, begin + config_.kv_heads * config_.head_dim});
}

// h = rms_norm(x)      q = rope(q_proj h)      k = rope(k_proj h)      v = v_proj h
template <class Device>
void AttentionLayer<Device>::project(LayerRun<Device>& run, const LayerWeights<Device>& weights,
                                     const LayerActivations<Device>& act,
                                     View<Device, const float, 2> x, bool wants_q) const {
    auto& scratch = run.scratch;
    const auto& h = scratch.normed;
    const auto linear = [&](const LoraLinear<Device>& layer,
                            View<Device, const Element<Device>, 2> weight,
                            View<Device, Element<Device>, 2> y) {
        layer.forward(run.stream, {.x = h, .weight = weight, .y = y}, run.dropout, scratch.linear);
    };
    rms_norm_forward(run.stream, {.x = x,
                                  .weight = weights.input_norm,
                                  .y = h,
                                  .normalised = act.normed_attention,
                                  .rstd = act.rstd_attention,
                                  .epsilon = run.rms_epsilon});
    linear(k_, weights.k, k_of(act.qkv));
    linear(v_, weights.v, v_of(act.qkv));
    rope(run.stream, {.x = k_of(act.qkv), .cosine = scratch.cosine, .sine = scratch.sine});
    if (wants_q) {
        linear(q_, weights.q, q_of(act.qkv));
        rope(run.stream, {.x = q_of(act.qkv), .cosine = scratch.cosine, .sine = scratch.sine});
    }
}

template <class Device>
template <class WaitBlock>
void AttentionLayer<Device>::attend(LayerRun<Device>& run, const LayerActivations<Device>& act,
                                    ContextExchange<Device>& exchange,
                                    const WaitBlock& wait_block) const {
    const View<Device, const Element<Device>, 2> qkv = act.qkv;
    attention_reset(run.stream, {.out = act.context, .lse = act.lse});
    const auto attend_block = [&](const KeyValueBlock<Device>& block,
                                  std::span<const AttentionItem> items) {
        attention_forward(run.stream, {.q = q_of(qkv),
                                       .block = block,
                                       .items = items,
                                       .head_dim = config_.head_dim,
                                       .queries_per_kv = config_.heads / config_.kv_heads,
                                       .out = act.context,
                                       .lse = act.lse});
    };
    const KeyValueBlock<Device> own{k_of(qkv), v_of(qkv), 0};
    if constexpr (attention_joins<Device>) {
        attend_block(own, exchange.plan().own_items());
        exchange.poll();
    } else {
        // In turns, so that messages make progress while the own part is attended.
        attend_block(own, exchange.plan().triangles);
        exchange.poll();
        attend_block(own, exchange.plan().rectangles);
    }
    exchange.notify("own attention done");
    const auto& blocks = exchange.plan().blocks;
    for (std::size_t i = 0; i < blocks.size(); ++i) {
        attend_block(wait_block(static_cast<Index>(i)), blocks[i].items);
    }
}

template <class Device>
void AttentionLayer<Device>::forward(LayerRun<Device>& run, const LayerWeights<Device>& weights,
                                     const LayerActivations<Device>& act,
                                     ContextExchange<Device>& exchange,
                                     View<Device, float, 2> x) const {
    project(run, weights, act, x, true);
    const View<Device, const Element<Device>, 2> qkv = act.qkv;
    exchange.begin_forward(run.stream, layer_, k_of(qkv), v_of(qkv));
    attend(run, act, exchange, [&](Index block) { return exchange.wait_block(layer_, block); });
    exchange.end_forward();
    project_out(run, weights, act, x);
}

template <class Device>
void AttentionLayer<Device>::recompute(LayerRun<Device>& run, const LayerWeights<Device>& weights,
                                       const LayerActivations<Device>& act,
                                       ContextExchange<Device>& exchange,
                                       View<Device, float, 2> x) const {
    project(run, weights, act, x, true);
    exchange.begin_recompute(run.stream, layer_);
    attend(run, act, exchange, [&](Index block) { return exchange.block(layer_, block); });
    project_out(run, weights, act, x);
}

// x += o_proj context
template <class Device>
void AttentionLayer<Device>::project_out(LayerRun<Device>& run, const LayerWeights<Device>& weights,
                                         const LayerActivations<Device>& act,
                                         View<Device, float, 2> x) const {
    o_.add(run.stream, {.x = act.context, .weight = weights.o, .residual = x}, run.dropout,
           run.scratch.linear);
}

template <class Device>
void AttentionLayer<Device>::forward_keys_values(LayerRun<Device>& run,
                                                 const LayerWeights<Device>& weights,
                                                 const LayerActivations<Device>& act,
                                                 ContextExchange<Device>& exchange,
                                                 View<Device, float, 2> x) const {
    project(run, weights, act, x, false);
    const View<Device, const Element<Device>, 2> qkv = act.qkv;
    exchange.keep_only(run.stream, layer_, k_of(qkv), v_of(qkv));
}

template <class Device>
void AttentionLayer<Device>::attend_part(LayerRun<Device>& run, const LayerActivations<Device>& act,
                                         const BackwardPart& part) const {
    const auto& scratch = run.scratch.attention;
    const View<Device, const Element<Device>, 2> qkv = act.qkv;
    attention_backward(run.stream, {.q = q_of(qkv),
                                    .block = part.block,
                                    .items = part.items,
                                    .head_dim = config_.head_dim,
                                    .queries_per_kv = config_.heads / config_.kv_heads,
                                    .d_out = part.d_context,
                                    .lse = act.lse,
                                    .delta = scratch.delta,
                                    .d_q = q_of(scratch.d_qkv),
                                    .d_k = part.to.k,
                                    .d_v = part.to.v,
                                    .overwrites = part.overwrites});
}

// delta = rowsum(d_context * context); dQ, dK, dV block by block. dK and dV of a half-group are its
// triangle's plus at most one square's, of this shard or another: each of the two is formed from zero, so
// that their sum has the same bits wherever it is made.
template <class Device>
void AttentionLayer<Device>::attend_backward(LayerRun<Device>& run,
                                             const LayerActivations<Device>& act,
                                             ContextExchange<Device>& exchange) const {
    auto& scratch = run.scratch.attention;
    const View<Device, const Element<Device>, 2> qkv = act.qkv;
    const View<Device, const Element<Device>, 2> d_context =
        as_elements(run.stream, scratch.d_context, run.scratch.copy);
    const KeyValueBlock<Device> own{k_of(qkv), v_of(qkv), 0};
    const KeyValuePair<Device, float> sums{k_of(scratch.d_qkv), v_of(scratch.d_qkv)};
    const ShardPlan& plan = exchange.plan();
    const auto attend_left_context = [&] {
        for (std::size_t i = 0; i < plan.blocks.size(); ++i) {
            const auto index = static_cast<Index>(i);
            const auto to = exchange.gradient_block(run.stream, layer_, index);
            attend_part(run, act,
                        {d_context, exchange.block(layer_, index), plan.blocks[i].items, to});
            exchange.send_gradient(run.stream, index);
        }
        exchange.start_messages();  // before then no poll: a message that is looked at begins
    };
    attention_delta(run.stream, {.d_out = d_context, .out = act.context, .delta = scratch.delta});
    exchange.begin_backward(run.stream, layer_);
    if constexpr (attention_overwrites<Device>) {
        // Triangles store, so that nothing is cleared, unless messages can leave before them. dQ has
        // two addends at most, and dK and dV get those of kept blocks behind the triangles either way.
        const bool sends_first = exchange.has_messages_alone();
        if (sends_first) {
            clear(run.stream, scratch.d_qkv.flat());
            attend_left_context();
        }
        attend_part(run, act, {d_context, own, plan.triangles, sums, !sends_first});
        exchange.add_kept_gradients(run.stream, layer_, sums);
        if (!sends_first) {
            attend_left_context();
        }
        exchange.poll();
        attend_part(run, act, {d_context, own, plan.rectangles, sums});
        exchange.end_backward(run.stream, layer_, sums);
    } else {
        // Sums grow in memory: squares' apart from triangles', in dQ squares first.
        const Index width = sums.k.columns();
        const KeyValuePair<Device, float> behind{scratch.d_kv_behind.columns({0, width}),
                                                 scratch.d_kv_behind.columns({width, 2 * width})};
        clear(run.stream, scratch.d_qkv.flat());
        clear(run.stream, scratch.d_kv_behind.flat());
        exchange.add_kept_gradients(run.stream, layer_, behind);
        attend_left_context();
        attend_part(run, act, {d_context, own, plan.rectangles, behind});
        exchange.poll();
        attend_part(run, act, {d_context, own, plan.triangles, sums});
        exchange.end_backward(run.stream, layer_, behind);
        accumulate(run.stream, {.x = behind.k, .out = sums.k});
        accumulate(run.stream, {.x = behind.v, .out = sums.v});
    }
}

// d_h = q_proj' dq + k_proj' dk + v_proj' dv, with dq and the completed dk turned back first
template <class Device>
void AttentionLayer<Device>::project_backward(LayerRun<Device>& run,
                                              const LayerWeights<Device>& weights,
                                              const LayerActivations<Device>& act) const {
    auto& scratch = run.scratch;
    const auto turn_back = [&](View<Device, const float, 2> d_y,
                               View<Device, Element<Device>, 2> d_x) {
        rope_gradient(run.stream,
                      {.d_y = d_y, .cosine = scratch.cosine, .sine = scratch.sine, .d_x = d_x});
    };
    const auto d_q = q_of(scratch.attention.d_projected);
    const auto d_k = k_of(scratch.attention.d_projected, fold_);
    const auto d_v = v_of(scratch.attention.d_projected, fold_);
    turn_back(q_of(scratch.attention.d_qkv), d_q);
    turn_back(k_of(scratch.attention.d_qkv), d_k);
    convert(run.stream, {.x = v_of(scratch.attention.d_qkv), .out = d_v});
    const auto linear = [&](const LoraLinear<Device>& layer,
                            View<Device, const Element<Device>, 2> weight,
                            View<Device, Element<Device>, 2> d_y, float beta) {
        layer.backward(run.stream,
                       {.d_y = d_y,
                        .x = scratch.normed,
                        .weight = weight,
                        .d_x = scratch.attention.d_normed,
                        .beta = beta,
                        .pieces = run.pieces},
                       run.dropout, scratch.linear);
    };
    rms_norm_again(
        run.stream,
        {.normalised = act.normed_attention, .weight = weights.input_norm, .y = scratch.normed});
    linear(q_, weights.q, d_q, 0);
    linear(k_, weights.k, d_k, 1);
    linear(v_, weights.v, d_v, 1);
    norm_backward<Device>(run.stream,
                          {.d_y = scratch.attention.d_normed,
                           .normalised = act.normed_attention,
                           .weight = weights.input_norm,
                           .rstd = act.rstd_attention,
                           .d_x = scratch.d_x,
                           .d_weight = {nullptr, 0}},
                          d_norm_, run.pieces, run.pieces.longest);
}

template <class Device>
void AttentionLayer<Device>::backward(LayerRun<Device>& run, const LayerWeights<Device>& weights,
                                      const LayerActivations<Device>& act,
                                      ContextExchange<Device>& exchange) const {
    auto& scratch = run.scratch;
    o_.backward(run.stream,
                {.d_y = as_elements(run.stream, scratch.d_x, scratch.copy, o_.fold()),
                 .x = act.context,
                 .weight = weights.o,
                 .d_x = scratch.attention.d_context,
                 .pieces = run.pieces},
                run.dropout, scratch.linear);
    attend_backward(run, act, exchange);
    project_backward(run, weights, act);
}

LONGLORA_INSTANTIATE(AttentionLayer);

}  // namespace longlora
