#include "model/rotary.hpp"

#include <cmath>

#include <boost/test/unit_test.hpp>

#include "core/arena.hpp"
#include "model/tiny_model.hpp"

using namespace longlora;
using longlora::test::tiny_config;

namespace {

// cos and sin of angle_i(p) = p / factor * theta^(-2i/D), by another way of writing it.
double largest_error(const LlamaConfig& config, double factor, Index first) {
    constexpr Index rows = 5;
    const Index pairs = config.head_dim / 2;
    Buffer<Cpu, float> memory(2 * rows * pairs);
    const View<Cpu, float, 2> cosine(memory.view().data(), rows, pairs);
    const View<Cpu, float, 2> sine(memory.view().data() + rows * pairs, rows, pairs);
    rotary_table(config, first, cosine, sine);
    double error = 0;
    for (Index t = 0; t < rows; ++t) {
        for (Index i = 0; i < pairs; ++i) {
            const long double exponent =
                2.0L * static_cast<long double>(i) / static_cast<long double>(config.head_dim);
            const long double turn =
                std::exp(-exponent * std::log(static_cast<long double>(config.rope_theta)));
            const long double angle =
                static_cast<long double>(first + t) / static_cast<long double>(factor) * turn;
            error = std::max(error, std::abs(static_cast<double>(std::cos(angle)) -
                                             static_cast<double>(cosine(t, i))));
            error = std::max(error, std::abs(static_cast<double>(std::sin(angle)) -
                                             static_cast<double>(sine(t, i))));
        }
    }
    return error;
}

constexpr double half_ulp_of_one = 0x1.0p-24;

}  // namespace

BOOST_AUTO_TEST_CASE(angles_follow_the_formula_far_out_too) {
    LlamaConfig config = tiny_config();
    config.head_dim = 12;
    for (const double theta : {10000.0, 500000.0}) {
        config.rope_theta = theta;
        for (const Index first : {0, 1, 511, 131072, 10000000}) {
            BOOST_TEST(largest_error(config, 1, first) < 1.1 * half_ulp_of_one);
        }
    }
}

BOOST_AUTO_TEST_CASE(linear_scaling_divides_positions) {
    LlamaConfig config = tiny_config();
    config.rope = {"linear", 8};
    for (const Index first : {0, 4091, 131072}) {
        BOOST_TEST(largest_error(config, 8, first) < 1.1 * half_ulp_of_one);
    }
    config.rope = {"none", 8};  // the factor is the linear type's
    BOOST_TEST(largest_error(config, 1, 100) < 1.1 * half_ulp_of_one);
}
