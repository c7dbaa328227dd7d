#include "data/sampler.hpp"

#include <algorithm>
#include <map>
#include <numeric>
#include <set>
#include <vector>

#include <boost/test/unit_test.hpp>

namespace longlora {
namespace {

BOOST_AUTO_TEST_CASE(a_row_holds_inputs_and_labels) {
    BOOST_TEST(stream_rows(100, 9) == 10);
    BOOST_TEST(stream_rows(109, 9) == 10);
    BOOST_TEST(stream_rows(9, 9) == 0);
    BOOST_TEST(stream_rows(0, 9) == 0);
    BOOST_TEST((row_tokens(0, 9) == Range{0, 10}));
    BOOST_TEST((row_tokens(3, 9) == Range{30, 40}));
}

// Rows in the order in which the steps draw them.
std::vector<Index> drawn(const RowOrder& order, Index count) {
    std::vector<Index> rows;
    for (Index i = 0; i < count; ++i) {
        rows.push_back(order.row_of(i / order.batch, i % order.batch));
    }
    return rows;
}

BOOST_AUTO_TEST_CASE(an_epoch_shows_each_row_once) {
    for (const Index rows : {1, 2, 3, 10, 64, 101}) {
        for (const Index batch : {1, 3, 8, 200}) {
            const std::vector<Index> order =
                drawn({.seed = 7, .batch = batch, .rows = rows}, 3 * rows);
            for (Index epoch = 0; epoch < 3; ++epoch) {
                const std::set<Index> seen(order.begin() + epoch * rows,
                                           order.begin() + (epoch + 1) * rows);
                BOOST_TEST(static_cast<Index>(seen.size()) == rows);
                BOOST_TEST(*seen.begin() == 0);
                BOOST_TEST(*seen.rbegin() == rows - 1);
            }
        }
    }
}

BOOST_AUTO_TEST_CASE(the_order_depends_on_seed_and_epoch_only) {
    const std::vector<Index> order = drawn({.seed = 7, .batch = 4, .rows = 50}, 100);
    BOOST_TEST(order == drawn({.seed = 7, .batch = 25, .rows = 50}, 100));
    BOOST_TEST(order != drawn({.seed = 8, .batch = 4, .rows = 50}, 100));
    BOOST_TEST(!std::equal(order.begin(), order.begin() + 50, order.begin() + 50));
    std::vector<Index> sorted(50);
    std::iota(sorted.begin(), sorted.end(), 0);
    BOOST_TEST(!std::equal(sorted.begin(), sorted.end(), order.begin()));
}

// Each row comes about equally often at the first place: chi-squared, 9 degrees, 1 - 1e-6 quantile.
BOOST_AUTO_TEST_CASE(no_row_is_preferred) {
    std::map<Index, int> counts;
    for (std::uint64_t seed = 0; seed < 5000; ++seed) {
        ++counts[RowOrder{.seed = seed, .batch = 1, .rows = 10}.row_of(0, 0)];
    }
    double chi_squared = 0;
    for (const auto& [row, count] : counts) {
        chi_squared += (count - 500.0) * (count - 500.0) / 500.0;
    }
    BOOST_TEST(counts.size() == 10U);
    BOOST_TEST(chi_squared < 45.1);
}

BOOST_AUTO_TEST_CASE(replicas_differ_by_at_most_one_row) {
    for (const Index batch : {1, 4, 7, 64}) {
        for (const Index replicas : {1, 2, 3, 8}) {
            Index next = 0;
            for (Index replica = 0; replica < replicas; ++replica) {
                const Range mine = deal(batch, replicas, replica);
                BOOST_TEST(mine.begin == next);
                BOOST_TEST(mine.size() >= batch / replicas);
                BOOST_TEST(mine.size() <= (batch + replicas - 1) / replicas);
                next = mine.end;
            }
            BOOST_TEST(next == batch);
        }
    }
}

}  // namespace
}  // namespace longlora
