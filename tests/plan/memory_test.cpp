#include "plan/memory.hpp"

#include <algorithm>

#include <boost/test/unit_test.hpp>

#include "model/tiny_model.hpp"
#include "train/two_pass.hpp"

using namespace longlora;
using namespace longlora::test;

namespace {

double part(const MemoryPlan& plan, const std::string& name) {
    for (const auto& [key, bytes] : plan.parts) {
        if (key == name) {
            return bytes;
        }
    }
    BOOST_ERROR("no part " << name);
    return 0;
}

MemoryPlan plan_for(const LlamaConfig& config, const Tune& tune, Index length, Index chunks) {
    const Layout layout{length, 64, 1, chunks, Pattern::s2, Boundary::truncate};
    return plan_memory<Cpu>({config, tune, layout, ActivationPolicy::keep}, 0, 1);
}

}  // namespace

BOOST_AUTO_TEST_CASE(the_planned_row_memory_is_what_training_allocates) {
    const LlamaConfig config = tiny_config();
    const Tune tune = tiny_tune();
    for (const Index chunks : {1, 2, 8}) {
        const Layout layout{512, 64, 1, chunks, Pattern::s2, Boundary::truncate};
        const MemoryPlan plan =
            plan_memory<Cpu>({config, tune, layout, ActivationPolicy::keep}, 0, 1);
        auto arena = Arena<Cpu>::measuring("test");
        TwoPass<Cpu>(arena, {config, tune, layout, ActivationPolicy::keep}, 0);
        const double planned = part(plan, "activations") + part(plan, "working memory") +
                               part(plan, "left context and kept K/V");
        // Tokens and labels of the shard are left out of the plan.
        BOOST_TEST(planned == static_cast<double>(arena.used()),
                   boost::test_tools::tolerance(0.02));
    }
}

// Streaming: the activations of a chunk do not grow with the sequence.
BOOST_AUTO_TEST_CASE(activations_are_those_of_a_chunk) {
    const auto whole = plan_for(tiny_config(), tiny_tune(), 512, 1);
    const auto streamed = plan_for(tiny_config(), tiny_tune(), 512 * 16, 16);
    BOOST_TEST(part(whole, "activations") == part(streamed, "activations"));
    BOOST_TEST(part(whole, "working memory") == part(streamed, "working memory"));
}

// No array of N x V exists: 32,000 words and 16,384 tokens would be 2 GiB; a tile of 1,024 is 125 MiB.
BOOST_AUTO_TEST_CASE(the_head_does_not_hold_all_logits) {
    LlamaConfig config = tiny_config();
    config.vocabulary = 32000;
    const auto plan = plan_for(config, tiny_tune(), 16384, 1);
    BOOST_TEST(part(plan, "working memory") < 160.0 * 1024 * 1024);
}

#ifdef LONGLORA_CUDA
// On the GPU there are slots instead: three, of gate and up of a tile each.
BOOST_AUTO_TEST_CASE(offloaded_activations_lie_on_the_host) {
    const LlamaConfig config = tiny_config();
    const Layout layout{512, 64, 1, 1, Pattern::s2, Boundary::truncate};
    KeptActivations kept(ActivationPolicy::recompute_mlp, 1);
    const auto plan = [&] { return plan_memory<Cuda>({config, tiny_tune(), layout, kept}, 0, 1); };
    const MemoryPlan before = plan();
    kept.offloaded = config.layers - 1;
    const MemoryPlan after = plan();
    const LayerShape shape = layer_shape<Cuda>(config, tiny_tune(), 512, true);
    const auto row = static_cast<double>(2 * (config.mlp_width + shape.mlp_fold)) *
                     static_cast<double>(sizeof(BFloat16));
    const auto others = static_cast<double>(config.layers - 1);
    BOOST_TEST(before.host == 0);
    BOOST_TEST(after.host == others * 512 * row);
    BOOST_TEST(part(after, "activations") - part(before, "activations") == 3 * 512 * row);
}
#endif

BOOST_AUTO_TEST_CASE(leaner_policies_take_less) {
    const LlamaConfig config = tiny_config();
    const Tune tune = tiny_tune();
    const Layout layout{512, 64, 1, 1, Pattern::s2, Boundary::truncate};
    const auto bytes = [&](ActivationPolicy policy) {
        return part(plan_memory<Cpu>({config, tune, layout, policy}, 0, 1), "activations");
    };
    BOOST_TEST(bytes(ActivationPolicy::recompute_mlp) < bytes(ActivationPolicy::keep));
    BOOST_TEST(bytes(ActivationPolicy::recompute_layer) < bytes(ActivationPolicy::recompute_mlp));
}
