// Integer sums against long double, in which every multiple of 2^-48 below 2^15 is exact.
#include "kernels/fixed_point.hpp"

#include <numeric>

#include "reference/compare.hpp"

using namespace longlora;
using namespace longlora::reference;

namespace {

constexpr float limit = 16384;

// x in units of 2^-48, halves away from zero
std::int64_t expected_units(float x) {
    return static_cast<std::int64_t>(std::roundl(std::ldexp(static_cast<long double>(x), 48)));
}

// Magnitudes from below the resolution to above a thousand.
std::vector<float> wide_values(std::uint64_t key, Index size) {
    std::vector<float> values;
    for (Index i = 0; i < size; ++i) {
        const auto exponent =
            static_cast<int>(random_bits(key, static_cast<std::uint64_t>(i)) % 64);
        values.push_back(std::ldexp(Matrix::uniform(key + 1, i), exponent - 52));
    }
    return values;
}

// The sum of `addends`, taken in the order of `order`.
std::vector<std::int64_t> sum_of(const std::vector<std::vector<float>>& addends,
                                 const std::vector<std::size_t>& order, int threads) {
    std::vector<std::int64_t> sum(addends.front().size(), 0);
    std::int64_t refused = 0;
    for (const std::size_t place : order) {
        fixed_point_add(Stream<Cpu>(threads), {.x = view(addends[place]),
                                               .sum = view(sum),
                                               .largest = limit,
                                               .refused = {&refused, 1}});
    }
    BOOST_TEST(refused == 0);
    return sum;
}

}  // namespace

BOOST_AUTO_TEST_CASE(each_addend_is_rounded_once_and_the_order_does_not_matter) {
    constexpr std::size_t count = 6;
    std::vector<std::vector<float>> addends;
    for (std::uint64_t i = 0; i < count; ++i) {
        addends.push_back(wide_values(60 + 2 * i, 40007));
    }
    std::vector<std::int64_t> expected(addends.front().size(), 0);
    for (const auto& addend : addends) {
        for (std::size_t i = 0; i < addend.size(); ++i) {
            expected[i] += expected_units(addend[i]);
        }
    }
    std::vector<std::size_t> order(count);
    std::iota(order.begin(), order.end(), 0U);
    BOOST_TEST((sum_of(addends, order, 1) == expected));
    std::reverse(order.begin(), order.end());
    BOOST_TEST((sum_of(addends, order, 3) == expected));
}

BOOST_AUTO_TEST_CASE(the_value_is_the_nearest_float) {
    std::vector<std::int64_t> sums = {0, 1, -1, std::int64_t{1} << 62, -(std::int64_t{3} << 40)};
    for (std::uint64_t i = 0; i < 5000; ++i) {
        sums.push_back(static_cast<std::int64_t>(random_bits(77, i)) >> (random_bits(78, i) % 60));
    }
    std::vector<float> out(sums.size());
    fixed_point_value(Stream<Cpu>(2), {.sum = view(sums), .out = view(out)});
    Index wrong = 0;
    for (std::size_t i = 0; i < sums.size(); ++i) {
        // Through double, which may round once more: half a unit of float and a little.
        const long double exact = std::ldexp(static_cast<long double>(sums[i]), -48);
        const long double error = std::abs(static_cast<long double>(out[i]) - exact);
        wrong += error > std::abs(exact) * std::ldexp(1.0L + 1e-6L, -24) ? 1 : 0;
    }
    BOOST_TEST(wrong == 0);
}

BOOST_AUTO_TEST_CASE(what_is_too_large_or_no_number_is_counted_and_left_out) {
    const float infinity = std::numeric_limits<float>::infinity();
    const std::vector<float> x = {limit,    -limit,    std::nextafter(limit, infinity),
                                  infinity, -infinity, std::numeric_limits<float>::quiet_NaN(),
                                  0.5F};
    std::vector<std::int64_t> sum(x.size(), 7);
    std::int64_t refused = 2;
    fixed_point_add(Stream<Cpu>(),
                    {.x = view(x), .sum = view(sum), .largest = limit, .refused = {&refused, 1}});
    BOOST_TEST(refused == 2 + 4);
    const std::int64_t most = std::int64_t{1} << 62;
    const std::vector<std::int64_t> expected = {
        7 + most, 7 - most, 7, 7, 7, 7, 7 + (std::int64_t{1} << 47)};
    BOOST_TEST(sum == expected);
}

BOOST_AUTO_TEST_CASE(an_embeddings_rows_receive_what_their_tokens_give) {
    constexpr Index vocabulary = 11;
    for (const Index width : {Index{1}, Index{33}, Index{150}}) {
        std::vector<std::int32_t> tokens;
        for (std::uint64_t t = 0; t < 77; ++t) {
            tokens.push_back(static_cast<std::int32_t>(random_bits(51, t) % vocabulary));
        }
        const auto count = static_cast<Index>(tokens.size());
        const Matrix d_x = Matrix::random(52, count, width, 2);
        std::vector<std::int64_t> sum(static_cast<std::size_t>(vocabulary * width), 5);
        std::vector<std::int64_t> expected = sum;
        std::int64_t refused = 0;
        embedding_gradient(Stream<Cpu>(2), {.tokens = view(tokens),
                                            .d_x = d_x.view(),
                                            .sum = {sum.data(), vocabulary, width},
                                            .largest = limit,
                                            .refused = {&refused, 1}});
        for (Index t = 0; t < count; ++t) {
            for (Index e = 0; e < width; ++e) {
                const Index row = tokens[static_cast<std::size_t>(t)];
                expected[static_cast<std::size_t>(row * width + e)] +=
                    expected_units(d_x.view()(t, e));
            }
        }
        BOOST_TEST((sum == expected));
        BOOST_TEST(refused == 0);
    }
}
