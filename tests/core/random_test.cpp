#include "core/random.hpp"

#include <cmath>
#include <cstdint>
#include <set>
#include <vector>

#include <boost/test/unit_test.hpp>

using namespace longlora;

BOOST_AUTO_TEST_SUITE(random_test)

BOOST_AUTO_TEST_CASE(permutation_is_bijective) {
    for (const std::uint64_t size :
         {1U, 2U, 3U, 4U, 5U, 7U, 16U, 17U, 255U, 256U, 257U, 1000U, 4099U}) {
        for (const std::uint64_t seed : {0U, 1U, 99U}) {
            const auto key = random_key(seed, Purpose::row_order);
            std::vector<int> hits(size, 0);
            for (std::uint64_t i = 0; i < size; ++i) {
                const auto place = permuted(key, i, size);
                BOOST_REQUIRE(place < size);
                ++hits[place];
            }
            for (const int count : hits) {
                BOOST_REQUIRE(count == 1);
            }
        }
    }
}

BOOST_AUTO_TEST_CASE(permutation_depends_on_the_key_and_mixes) {
    const std::uint64_t size = 1000;
    const auto one = random_key(1, Purpose::row_order);
    const auto two = random_key(2, Purpose::row_order);
    int same = 0;
    int fixed = 0;
    for (std::uint64_t i = 0; i < size; ++i) {
        same += permuted(one, i, size) == permuted(two, i, size) ? 1 : 0;
        fixed += permuted(one, i, size) == i ? 1 : 0;
    }
    BOOST_TEST(same < 10);  // 1 is expected of two random permutations
    BOOST_TEST(fixed < 10);
}

BOOST_AUTO_TEST_CASE(values_are_a_function_of_key_and_index) {
    const auto key = random_key(7, Purpose::dropout, 3);
    static_assert(random_bits(5, 9) == random_bits(5, 9));
    BOOST_TEST(random_uniform(key, 12) == random_uniform(random_key(7, Purpose::dropout, 3), 12));
    std::set<std::uint64_t> keys;
    for (std::uint64_t seed = 0; seed < 10; ++seed) {
        for (const auto purpose : {Purpose::initial_weight, Purpose::row_order, Purpose::dropout}) {
            for (std::uint64_t stream = 0; stream < 10; ++stream) {
                keys.insert(random_key(seed, purpose, stream));
            }
        }
    }
    BOOST_TEST(keys.size() == 300U);
}

BOOST_AUTO_TEST_CASE(uniform_and_normal_have_the_right_moments) {
    const auto key = random_key(1, Purpose::initial_weight);
    const int count = 100000;
    double uniform = 0;
    double mean = 0;
    double square = 0;
    double fourth = 0;
    for (int i = 0; i < count; ++i) {
        const auto index = static_cast<std::uint64_t>(i);
        const double u = random_uniform(key, index);
        BOOST_REQUIRE((u >= 0 && u < 1));
        const double x = random_normal(key, index);
        BOOST_REQUIRE(std::isfinite(x));
        uniform += u / count;
        mean += x / count;
        square += x * x / count;
        fourth += x * x * x * x / count;
    }
    // Five standard errors of the mean of 100,000 draws.
    BOOST_TEST(std::abs(uniform - 0.5) < 0.005);
    BOOST_TEST(std::abs(mean) < 0.016);
    BOOST_TEST(std::abs(square - 1) < 0.023);
    BOOST_TEST(std::abs(fourth - 3) < 0.16);
}

BOOST_AUTO_TEST_SUITE_END()
