#include "core/view.hpp"

#include <type_traits>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "core/device.hpp"

using namespace longlora;

namespace {

std::vector<float> counting(Index size) {
    std::vector<float> values(static_cast<std::size_t>(size));
    for (Index i = 0; i < size; ++i) {
        values[static_cast<std::size_t>(i)] = static_cast<float>(i);
    }
    return values;
}

template <class From, class To>
constexpr bool converts = std::is_convertible_v<From, To>;

}  // namespace

BOOST_AUTO_TEST_SUITE(view_test)

BOOST_AUTO_TEST_CASE(rows_columns_and_slices_share_memory) {
    auto values = counting(24);
    const View<Cpu, float, 2> all(values.data(), 4, 6);
    BOOST_TEST(all(2, 3) == 15);
    BOOST_TEST(all.row(1)[5] == 11);
    const auto part = all.rows({1, 3}).columns({2, 5});
    BOOST_TEST(part.rows() == 2);
    BOOST_TEST(part.columns() == 3);
    BOOST_TEST(part.pitch() == 6);
    BOOST_TEST(!part.is_contiguous());
    BOOST_TEST(part(1, 2) == 16);
    part(1, 2) = -1;
    BOOST_TEST(all(2, 4) == -1);
    BOOST_TEST(all.is_contiguous());
    BOOST_TEST(all.flat().size() == 24);
    BOOST_TEST(all.flat().slice({6, 9})[2] == 8);
}

BOOST_AUTO_TEST_CASE(empty_ranges_and_views) {
    BOOST_TEST((Range{3, 3}.empty()));
    BOOST_TEST((Range{5, 3}.size() == 0));
    BOOST_TEST((Range{2, 5}.size() == 3));
    auto values = counting(6);
    const View<Cpu, float, 2> all(values.data(), 2, 3);
    BOOST_TEST(all.rows({1, 1}).rows() == 0);
    int visited = 0;
    for (const float value : View<Cpu, float, 1>(values.data(), 0)) {
        visited += value >= 0 ? 1 : 1;
    }
    BOOST_TEST(visited == 0);
}

BOOST_AUTO_TEST_CASE(a_view_gains_const_but_never_loses_it) {
    static_assert(converts<View<Cpu, float, 1>, View<Cpu, const float, 1>>);
    static_assert(converts<View<Cpu, float, 2>, View<Cpu, const float, 2>>);
    static_assert(!converts<View<Cpu, const float, 1>, View<Cpu, float, 1>>);
    static_assert(!converts<View<Cpu, float, 1>, View<Cpu, double, 1>>);
    auto values = counting(6);
    const View<Cpu, const float, 2> fixed = View<Cpu, float, 2>(values.data(), 2, 3);
    BOOST_TEST(fixed(1, 1) == 4);
}

BOOST_AUTO_TEST_SUITE_END()
