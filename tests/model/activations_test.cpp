#include "model/activations.hpp"

#include <set>

#include <boost/test/unit_test.hpp>

#include "model/context_exchange.hpp"
#include "model/tiny_model.hpp"

using namespace longlora;
using namespace longlora::test;

namespace {

constexpr Index tokens = 48;

LayerShape shape_of(bool wants_gradients = true, Tune tune = tiny_tune()) {
    return layer_shape<Cpu>(tiny_config(), tune, tokens, wants_gradients);
}

// What a measuring arena counts must be what the real one uses, and no more be needed.
template <class Allocate>
std::size_t measured_and_real(const Allocate& allocate) {
    auto measuring = Arena<Cpu>::measuring("test");
    allocate(measuring);
    Arena<Cpu> real("test", measuring.used());
    allocate(real);
    BOOST_TEST(real.used() == measuring.used());
    return real.used();
}

std::size_t activation_bytes(ActivationPolicy policy, bool wants_gradients = true) {
    return measured_and_real(
        [&](Arena<Cpu>& arena) { Activations<Cpu>(arena, shape_of(wants_gradients), policy); });
}

constexpr auto policies = {ActivationPolicy::keep, ActivationPolicy::recompute_mlp,
                           ActivationPolicy::recompute_layer};

}  // namespace

BOOST_AUTO_TEST_CASE(a_measured_arena_is_large_enough) {
    for (const ActivationPolicy policy : policies) {
        for (const bool wants_gradients : {true, false}) {
            activation_bytes(policy, wants_gradients);
        }
    }
    for (const bool wants_gradients : {true, false}) {
        measured_and_real(
            [&](Arena<Cpu>& arena) { Scratch<Cpu>(arena, shape_of(wants_gradients)); });
    }
    const Layout layout{.length = 96, .group = 16, .ranks = 3, .chunks = 4};
    for (Index rank = 0; rank < layout.ranks; ++rank) {
        for (const bool wants_gradients : {true, false}) {
            measured_and_real([&](Arena<Cpu>& arena) {
                ContextExchange<Cpu>(arena, {layout, {4, 2}, 6, 2, wants_gradients}, rank);
            });
        }
    }
}

BOOST_AUTO_TEST_CASE(leaner_policies_take_less_and_evaluation_least) {
    const auto keep = activation_bytes(ActivationPolicy::keep);
    const auto mlp = activation_bytes(ActivationPolicy::recompute_mlp);
    const auto layer = activation_bytes(ActivationPolicy::recompute_layer);
    const LlamaConfig config = tiny_config();
    const auto gate_and_up =
        static_cast<std::size_t>(config.layers * 2 * tokens * config.mlp_width) * sizeof(float);
    BOOST_TEST(keep == mlp + gate_and_up);  // 48 x 19 floats fill whole cache lines
    BOOST_TEST(layer < mlp);
    BOOST_TEST(activation_bytes(ActivationPolicy::keep, false) < layer);
}

BOOST_AUTO_TEST_CASE(rows_and_sharing_follow_the_policy) {
    const LlamaConfig config = tiny_config();
    for (const ActivationPolicy policy : policies) {
        Arena<Cpu> arena("test", 1 << 20);
        const Activations<Cpu> act(arena, shape_of(), policy);
        const auto& first = act.layer(0);
        const auto& second = act.layer(1);
        BOOST_TEST((act.policy() == policy));
        BOOST_TEST(first.gate.rows() == (policy == ActivationPolicy::keep ? tokens : 0));
        BOOST_TEST(first.up.rows() == first.gate.rows());
        BOOST_TEST(first.qkv.columns() == (config.heads + 2 * config.kv_heads) * config.head_dim);
        BOOST_TEST(first.context.columns() == config.heads * config.head_dim);
        BOOST_TEST(first.lse.rows() == config.heads);
        BOOST_TEST(first.lse.columns() == tokens);
        // The residual stream into each layer is kept where all else is shared and recomputed.
        const bool is_shared = policy == ActivationPolicy::recompute_layer;
        BOOST_TEST(first.x.rows() == (is_shared ? tokens : 0));
        if (is_shared) {
            const std::set<const float*> streams = {first.x.data(), second.x.data(),
                                                    act.residual().data()};
            BOOST_TEST(streams.size() == 3U);
        }
        BOOST_TEST((first.qkv.data() == second.qkv.data()) == is_shared);
        BOOST_TEST((first.normed_mlp.data() == second.normed_mlp.data()) == is_shared);
        BOOST_TEST(first.normed_mlp.data() != first.normed_attention.data());
        BOOST_TEST(first.normed_mlp.rows() == tokens);
    }
}

// A first pass and an evaluation update one residual stream in place.
BOOST_AUTO_TEST_CASE(a_forward_that_keeps_nothing_has_one_residual_stream) {
    for (const bool wants_gradients : {true, false}) {
        Arena<Cpu> arena("test", 1 << 20);
        const Activations<Cpu> act(arena, shape_of(wants_gradients), ActivationPolicy::keep);
        const auto layer = act.transient();
        BOOST_TEST(layer.normed_attention.rows() == 0);
        BOOST_TEST(layer.normed_mlp.rows() == 0);
        BOOST_TEST(layer.gate.rows() == 0);
        BOOST_TEST(layer.up.rows() == 0);
        BOOST_TEST(layer.qkv.rows() == tokens);
    }
}

BOOST_AUTO_TEST_CASE(working_memory_knows_what_is_not_needed) {
    Arena<Cpu> arena("test", 1 << 22);
    const Scratch<Cpu> training(arena, shape_of());
    BOOST_TEST(training.d_x.rows() == tokens);
    BOOST_TEST(training.linear.xa.columns() == tiny_tune().rank);
    BOOST_TEST(training.linear.dropped.columns() == 0);
    const void* const shared = training.attention.d_qkv.data();
    BOOST_TEST(training.mlp.gate.data() == shared);
    BOOST_TEST(training.head.logits.data() == shared);
    BOOST_TEST(training.attention.d_context.data() !=
               shared);  // floats are read while d_qkv is written
    BOOST_TEST(training.normed.data() != shared);
    const Scratch<Cpu> evaluation(arena, shape_of(false));
    BOOST_TEST(evaluation.d_x.rows() == 0);
    BOOST_TEST(evaluation.attention.d_qkv.rows() == 0);
    BOOST_TEST(evaluation.normed.rows() == tokens);

    Tune dropping = tiny_tune();
    dropping.dropout = 0.1;
    const LlamaConfig config = tiny_config();
    const Index widest = std::max({config.width, config.heads * config.head_dim, config.mlp_width});
    BOOST_TEST(Scratch<Cpu>(arena, shape_of(true, dropping)).linear.dropped.columns() == widest);
    BOOST_TEST(Scratch<Cpu>(arena, shape_of(false, dropping)).linear.dropped.columns() == 0);
    dropping.mode = TuneMode::full;
    BOOST_TEST(!shape_of(true, dropping).has_dropout);
    BOOST_TEST(shape_of(true, dropping).lora_rank == 0);
}

// The logits of a tile stay near 16 MiB; the MLP's working memory does not grow with the shard.
BOOST_AUTO_TEST_CASE(tiles_are_bounded) {
    LlamaConfig config = tiny_config();
    const auto head_tile = [&](Index vocabulary, Index rows) {
        config.vocabulary = vocabulary;
        return layer_shape<Cpu>(config, tiny_tune(), rows, true).head_tile;
    };
    BOOST_TEST(head_tile(32000, 8192) == 1024);
    BOOST_TEST(head_tile(128256, 8192) == (Index{1} << 26) / 128256);
    BOOST_TEST(head_tile(10000000, 8192) == 32);
    BOOST_TEST(head_tile(512, 10) == 10);
    BOOST_TEST(layer_shape<Cpu>(config, tiny_tune(), 100000, true).mlp_tile == 1024);
    BOOST_TEST(layer_shape<Cpu>(config, tiny_tune(), 7, true).mlp_tile == 7);
}

// Whole tiles, the last of a layer; as many of each layer as of the others, so that what leaves for the
// host in the time of a layer is never much more than elsewhere.
BOOST_AUTO_TEST_CASE(tiles_of_gate_and_up_that_stay_are_spread_evenly) {
    LayerShape shape = shape_of();
    shape.tokens = 70;
    shape.mlp_tile = 16;  // 4 of 16 tokens, one of 6
    for (const Index layers : {1, 5, 32}) {
        shape.config.layers = layers;
        for (Index tiles = 0; tiles <= 5 * layers; ++tiles) {
            const KeptActivations kept(ActivationPolicy::recompute_mlp, tiles);
            Index count = 0;
            Index least = 5;
            Index most = 0;
            for (Index l = 0; l < layers; ++l) {
                const Index first = shape.first_kept(kept, l);
                const Index others = ceil_div(first, shape.mlp_tile);
                BOOST_TEST(first == std::min(shape.tokens, others * shape.mlp_tile));
                count += 5 - others;
                least = std::min(least, 5 - others);
                most = std::max(most, 5 - others);
            }
            BOOST_TEST(count == tiles);
            BOOST_TEST(most - least <= 1);
        }
    }
    BOOST_TEST(shape.first_kept(ActivationPolicy::keep, 0) == 0);
    BOOST_TEST(shape.first_kept(ActivationPolicy::recompute_layer, 0) == shape.tokens);
}

BOOST_AUTO_TEST_CASE(tokens_are_kept_or_offloaded_or_recomputed) {
    LayerShape shape = shape_of();
    shape.tokens = 64;
    shape.mlp_tile = 16;
    shape.config.layers = 2;
    KeptActivations kept(ActivationPolicy::recompute_mlp, 3);  // of the first layer one tile
    kept.offloaded = 4;
    BOOST_TEST(shape.first_kept(kept, 0) == 48);
    BOOST_TEST(shape.first_kept(kept, 1) == 32);
    const auto offload = offload_shape<Cpu>(shape, kept);
    BOOST_TEST(offload.tokens == std::vector<Index>({32, 32}), boost::test_tools::per_element());
    BOOST_TEST(shape.offloaded_part(kept) == 64.0 / 128);
    BOOST_TEST(shape.recomputed_part(kept) == 16.0 / 128);
    kept.offloaded = 9;  // what stays does not wait as well
    BOOST_TEST(offload_shape<Cpu>(shape, kept).tokens == std::vector<Index>({48, 32}),
               boost::test_tools::per_element());
    BOOST_TEST(shape.recomputed_part(kept) == 0);
    BOOST_TEST(offload_shape<Cpu>(shape, ActivationPolicy::keep).is_empty());
    BOOST_TEST(shape.recomputed_part(ActivationPolicy::keep) == 0);
    BOOST_TEST(shape.recomputed_part(ActivationPolicy::recompute_layer) == 1);

    const Activations<Cpu> act = [&] {
        Arena<Cpu> arena("test", std::size_t{1} << 20U);
        return Activations<Cpu>(arena, shape, kept);
    }();
    BOOST_TEST(act.layer(0).gate.rows() == 16);
    BOOST_TEST(act.layer(1).up.rows() == 32);
    BOOST_TEST(act.layer(1).first_kept() == 32);
    BOOST_TEST(act.transient().first_kept() == 64);
}
