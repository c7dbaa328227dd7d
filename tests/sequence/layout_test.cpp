#include "sequence/layout.hpp"

#include <boost/test/unit_test.hpp>

#include "support/files.hpp"

using namespace longlora;

namespace {

template <class Check>
void for_shards(const Check& check) {
    for (const Index ranks : {1, 2, 3, 4, 8}) {
        for (const Index chunks : {1, 2, 3, 4, 7, 9}) {
            const Layout layout{
                .length = 5 * ranks * chunks, .group = 2, .ranks = ranks, .chunks = chunks};
            check(layout);
        }
    }
}

}  // namespace

BOOST_AUTO_TEST_CASE(every_shard_has_one_rank_and_every_rank_one_shard_of_a_chunk) {
    for_shards([](const Layout& layout) {
        for (Index shard = 0; shard < layout.shards(); ++shard) {
            const Index rank = layout.rank_of(shard);
            BOOST_TEST((rank >= 0 && rank < layout.ranks));
            BOOST_TEST(layout.shard_of(layout.chunk_of(shard), rank) == shard);
        }
        for (Index chunk = 0; chunk < layout.chunks; ++chunk) {
            for (Index rank = 0; rank < layout.ranks; ++rank) {
                const Index shard = layout.shard_of(chunk, rank);
                BOOST_TEST(layout.rank_of(shard) == rank);
                BOOST_TEST(layout.chunk_of(shard) == chunk);
            }
        }
    });
}

// rank(c, i) = (i - c) mod P: K/V go from rank r to r + 1, and stay at a chunk's border.
BOOST_AUTO_TEST_CASE(neighbouring_shards_are_on_neighbouring_ranks_and_chunks_meet_on_one) {
    for_shards([](const Layout& layout) {
        for (Index shard = 0; shard + 1 < layout.shards(); ++shard) {
            const bool is_border = (shard + 1) % layout.ranks == 0;
            const Index expected = (layout.rank_of(shard) + (is_border ? 0 : 1)) % layout.ranks;
            BOOST_TEST(layout.rank_of(shard + 1) == expected);
        }
    });
}

BOOST_AUTO_TEST_CASE(shards_cover_the_sequence_in_order) {
    for_shards([](const Layout& layout) {
        Index next = 0;
        for (Index shard = 0; shard < layout.shards(); ++shard) {
            BOOST_TEST(layout.tokens(shard).begin == next);
            BOOST_TEST(layout.tokens(shard).size() == layout.shard_length());
            next = layout.tokens(shard).end;
        }
        BOOST_TEST(next == layout.length);
    });
}

BOOST_AUTO_TEST_CASE(a_shard_is_aligned_when_it_holds_whole_half_groups) {
    const auto is_aligned = [](Index ranks, Pattern pattern) {
        return Layout{.length = 48, .group = 8, .ranks = ranks, .pattern = pattern}.is_aligned();
    };
    BOOST_TEST(is_aligned(4, Pattern::s2));   // T = 12 = 3 h
    BOOST_TEST(is_aligned(12, Pattern::s2));  // T = 4 = h
    BOOST_TEST(!is_aligned(8, Pattern::s2));  // T = 6
    BOOST_TEST(!is_aligned(24, Pattern::local));
    BOOST_TEST(is_aligned(1, Pattern::full));
    BOOST_TEST(!is_aligned(2, Pattern::full));
}

BOOST_AUTO_TEST_CASE(kv_heads_are_those_that_the_query_heads_read) {
    const Heads heads{9, 3};
    BOOST_TEST((heads.kv_of({0, 4}) == Range{0, 2}));
    BOOST_TEST((heads.kv_of({4, 9}) == Range{1, 3}));
    BOOST_TEST((heads.kv_of({3, 3}) == Range{0, 0}));
    BOOST_TEST((Heads{4, 2}.kv_of({0, 2}) == Range{0, 1}));
    BOOST_TEST((Heads{3, 1}.kv_of({1, 3}) == Range{0, 1}));
}

BOOST_AUTO_TEST_CASE(layouts_that_fit_pass) {
    check_layout({.length = 8192, .group = 2048, .ranks = 8});
    check_layout(
        {.length = 24, .group = 16, .ranks = 3, .chunks = 2});  // N = 1.5 G: a multiple of h
    check_layout({.length = 32, .group = 16, .ranks = 8, .boundary = Boundary::wrap});
    check_layout({.length = 21, .group = 0, .ranks = 7, .chunks = 3, .pattern = Pattern::full});
    check_layout({.length = 8, .group = 16});  // one half-group
}

BOOST_AUTO_TEST_CASE(a_layout_that_does_not_fit_says_what_would) {
    using P = Pattern;
    const auto wrap = Boundary::wrap;
    CHECK_INPUT_ERROR(check_layout({.length = 0, .group = 2}), "sequence.length must be positive");
    CHECK_INPUT_ERROR(check_layout({.length = 100, .group = 2, .ranks = 4, .chunks = 2}),
                      "sequence.length 100 does not divide into 2 chunks x 4 sequence ranks");
    CHECK_INPUT_ERROR(check_layout({.length = 100, .group = 2, .ranks = 4, .chunks = 2}),
                      "multiple of 8");
    for (const Pattern pattern : {P::s2, P::local, P::shifted}) {
        CHECK_INPUT_ERROR(check_layout({.length = 9, .group = 3, .pattern = pattern}),
                          "attention.group 3");
        CHECK_INPUT_ERROR(check_layout({.length = 9, .group = 3, .pattern = pattern}), "even");
        CHECK_INPUT_ERROR(check_layout({.length = 9, .group = 0, .pattern = pattern}), "positive");
        CHECK_INPUT_ERROR(check_layout({.length = 20, .group = 16, .pattern = pattern}),
                          "multiple of half of attention.group (8)");
    }
    CHECK_INPUT_ERROR(check_layout({.length = 32, .group = 8, .chunks = 2, .boundary = wrap}),
                      "set sequence.chunks to 1");
    CHECK_INPUT_ERROR(check_layout({.length = 24, .group = 16, .boundary = wrap}),
                      "multiple of attention.group (16)");
}
