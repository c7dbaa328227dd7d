#include "plan/flops.hpp"

#include <boost/test/unit_test.hpp>

using namespace longlora;

// The benchmark model of the CPU budget, counted by hand: 12 layers, 768 wide, 12 heads of 64, MLP 2048,
// V 32,000; N 8,192, G 2,048: 562 MFLOP a token, LoRA r 8 on q, k, v, o, head frozen.
BOOST_AUTO_TEST_CASE(the_benchmark_model_is_as_counted_by_hand) {
    LlamaConfig config;
    config.layers = 12;
    config.width = 768;
    config.heads = 12;
    config.kv_heads = 12;
    config.head_dim = 64;
    config.mlp_width = 2048;
    config.vocabulary = 32000;
    Tune tune;
    tune.targets = {"q_proj", "k_proj", "v_proj", "o_proj"};
    const Layout layout{8192, 2048, 1, 1, Pattern::s2, Boundary::truncate};
    const double a_token = row_flops(config, tune, layout) / 8192;
    // linear 2 x 169.9, head 2 x 49.2, attention 14 x 64 x 12 x 12 x 960.5, LoRA 3.5 MFLOP
    BOOST_TEST(a_token == 565.6e6, boost::test_tools::tolerance(0.005));
}

BOOST_AUTO_TEST_CASE(full_training_adds_the_weights_gradient) {
    LlamaConfig config;
    config.layers = 1;
    config.width = 8;
    config.heads = 2;
    config.kv_heads = 2;
    config.head_dim = 4;
    config.mlp_width = 16;
    config.vocabulary = 32;
    Tune full;
    full.mode = TuneMode::full;
    const Layout layout{4, 0, 1, 1, Pattern::full, Boundary::truncate};
    // 6 FLOP a weight: 4 x 64 + 3 x 128 + 8 x 32 weights; 10 visible pairs in 2 heads of 14 x 4
    BOOST_TEST(row_flops(config, full, layout) == 4 * 6.0 * (256 + 384 + 256) + 2 * 10 * 14 * 4);
}
