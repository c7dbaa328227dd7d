#include "kernels/cuda/attention_work.hpp"

#include <array>
#include <set>
#include <tuple>

#include <boost/test/unit_test.hpp>

#include "sequence/left_context.hpp"

using namespace longlora;

namespace {

struct Case {
    Layout layout;
    Heads heads;
};

// Half-groups of one token and of many, shards aligned and not, odd lengths.
const std::vector<Case>& cases() {
    using enum Pattern;
    static const std::vector<Case> list = {
        {{.length = 6, .group = 2, .ranks = 1, .pattern = s2}, {4, 2}},
        {{.length = 12, .group = 2, .ranks = 2, .pattern = s2, .boundary = Boundary::wrap}, {3, 1}},
        {{.length = 30, .group = 10, .ranks = 2, .chunks = 3, .pattern = s2}, {9, 3}},
        {{.length = 96, .group = 32, .ranks = 4, .pattern = s2}, {4, 4}},
        {{.length = 96, .group = 48, .ranks = 4, .pattern = shifted}, {4, 2}},
        {{.length = 256, .group = 128, .ranks = 2, .pattern = s2}, {9, 3}},
        {{.length = 400, .group = 200, .ranks = 2, .pattern = s2, .boundary = Boundary::wrap},
         {9, 3}},
        {{.length = 400, .group = 200, .ranks = 1, .pattern = s2, .boundary = Boundary::wrap},
         {3, 1}},
        {{.length = 400, .group = 200, .ranks = 2, .chunks = 4, .pattern = local}, {2, 1}},
        {{.length = 402, .ranks = 3, .pattern = full}, {2, 2}}};
    return list;
}

// Of tiles: those of the two kinds of tensor cores, and one that divides nothing.
constexpr std::array<Index, 3> tile_rows = {attention_tile_rows, 128, 7};

// Calls body(case, items of one call, their block's rows, absolute position of its first row).
template <class Body>
void for_calls(const Case& c, const Body& body) {
    for (Index shard = 0; shard < c.layout.shards(); ++shard) {
        const ShardPlan plan = plan_shard(c.layout, c.heads, shard);
        const Range own = c.layout.tokens(shard);
        body(shard, plan.triangles, own);
        body(shard, plan.rectangles, own);
        for (const ContextBlock& block : plan.blocks) {
            body(shard, block.items, block.tokens);
        }
    }
}

// How often each (query head, query, key) is computed.
class Counts {
public:
    Counts(Index heads, Index queries, Index keys)
        : queries_(queries),
          keys_(keys),
          counts_(static_cast<std::size_t>(heads * queries * keys)) {}

    void add(Range heads, Index query, Range keys) {
        for (Index head = heads.begin; head < heads.end; ++head) {
            for (Index key = keys.begin; key < keys.end; ++key) {
                ++counts_[static_cast<std::size_t>((head * queries_ + query) * keys_ + key)];
            }
        }
    }
    void add_items(const std::vector<AttentionItem>& items) {
        for (const AttentionItem& item : items) {
            for (Index i = 0; i < item.queries.size(); ++i) {
                const Index seen =
                    item.is_causal ? std::min(i + 1, item.keys.size()) : item.keys.size();
                add(item.heads, item.queries.begin + i, {item.keys.begin, item.keys.begin + seen});
            }
        }
    }
    void add_tile(const AttentionTile& tile, Range heads) {
        for (Index i = 0; i < tile.queries && tile.keys_behind > 0; ++i) {
            add(heads, tile.first_query + i,
                {tile.first_key_behind, tile.first_key_behind + tile.keys_behind});
        }
        for (Index i = 0; i < tile.queries; ++i) {
            const Index seen = std::min<Index>(tile.keys, i + tile.diagonal);
            add(heads, tile.first_query + i, {tile.first_key, tile.first_key + seen});
        }
    }
    bool operator==(const Counts&) const = default;

private:
    Index queries_;
    Index keys_;
    std::vector<int> counts_;
};

Range heads_of(const AttentionTile& tile) {
    return {tile.first_head, tile.first_head + tile.heads};
}

// As a block of threads does: `place` counts the K/V heads from that of the tile's first head.
Range heads_of(const AttentionTile& tile, Index place, Index queries_per_kv) {
    const Index first = (tile.first_head / queries_per_kv + place) * queries_per_kv;
    return {std::max<Index>(tile.first_head, first),
            std::min<Index>(tile.first_head + tile.heads, first + queries_per_kv)};
}

bool is_longest_first(const AttentionRound& round, std::int32_t AttentionTile::*length) {
    return std::is_sorted(
        round.tiles.begin(), round.tiles.end(),
        [&](const AttentionTile& a, const AttentionTile& b) { return a.*length > b.*length; });
}

// Whether no (head, row) comes twice.
class Places {
public:
    void add(Range heads, Index first_row, Index rows) {
        for (Index head = heads.begin; head < heads.end; ++head) {
            for (Index row = first_row; row < first_row + rows; ++row) {
                are_different_ = seen_.insert({head, row}).second && are_different_;
            }
        }
    }
    bool are_different() const { return are_different_; }

private:
    std::set<std::pair<Index, Index>> seen_;
    bool are_different_ = true;
};

}  // namespace

namespace {

void check_query_tiles(Index rows) {
    for (const Case& c : cases()) {
        for_calls(c, [&](Index, const std::vector<AttentionItem>& items, Range block) {
            Counts expected(c.heads.query, c.layout.shard_length(), block.size());
            Counts actual = expected;
            expected.add_items(items);
            const auto rounds = query_tiles(items, rows);
            BOOST_TEST(rounds.size() <= 1);  // none of the plan's calls has more
            for (const AttentionRound& round : rounds) {
                Places places;
                for (const AttentionTile& tile : round.tiles) {
                    BOOST_TEST((tile.queries > 0 && tile.queries <= rows));
                    BOOST_TEST((tile.keys > 0 && tile.heads <= round.heads));
                    actual.add_tile(tile, heads_of(tile));
                    places.add(heads_of(tile), tile.first_query, tile.queries);
                }
                BOOST_TEST(places.are_different());
                BOOST_TEST(is_longest_first(round, &AttentionTile::keys));
            }
            BOOST_TEST((actual == expected));
        });
    }
}

}  // namespace

BOOST_AUTO_TEST_CASE(query_tiles_hold_each_visible_pair_once) {
    for (const Index rows : tile_rows) {
        check_query_tiles(rows);
    }
}

namespace {

void check_key_tiles(Index rows) {
    for (const Case& c : cases()) {
        const Index queries_per_kv = c.heads.queries_per_kv();
        for_calls(c, [&](Index, const std::vector<AttentionItem>& items, Range block) {
            Counts expected(c.heads.query, c.layout.shard_length(), block.size());
            Counts actual = expected;
            expected.add_items(items);
            for (const AttentionRound& round : key_tiles(items, queries_per_kv, rows)) {
                Places places;
                for (const AttentionTile& tile : round.tiles) {
                    BOOST_TEST((tile.keys > 0 && tile.keys <= rows));
                    BOOST_TEST(tile.queries > 0);
                    for (Index place = 0; place < round.heads; ++place) {
                        const Range heads = heads_of(tile, place, queries_per_kv);
                        actual.add_tile(tile, heads);
                        if (!heads.empty()) {
                            const Index kv_head = heads.begin / queries_per_kv;
                            places.add({kv_head, kv_head + 1}, tile.first_key, tile.keys);
                        }
                    }
                }
                BOOST_TEST(places.are_different());
                BOOST_TEST(is_longest_first(round, &AttentionTile::queries));
            }
            BOOST_TEST((actual == expected));
        });
    }
}

}  // namespace

BOOST_AUTO_TEST_CASE(key_tiles_hold_each_visible_pair_once) {
    for (const Index rows : tile_rows) {
        check_key_tiles(rows);
    }
}

// Squares go on where triangles end: one launch, in which no two tiles write to one place.
BOOST_AUTO_TEST_CASE(joined_tiles_hold_each_visible_pair_once) {
    for (const Case& c : cases()) {
        for (Index shard = 0; shard < c.layout.shards(); ++shard) {
            const std::vector<AttentionItem> items =
                plan_shard(c.layout, c.heads, shard).own_items();
            Counts expected(c.heads.query, c.layout.shard_length(), c.layout.shard_length());
            Counts actual = expected;
            expected.add_items(items);
            for (const Index rows : tile_rows) {
                const auto rounds = joined(query_tiles(items, rows));
                BOOST_TEST(rounds.size() == 1);
                Places places;
                actual = Counts(c.heads.query, c.layout.shard_length(), c.layout.shard_length());
                for (const AttentionTile& tile : rounds.front().tiles) {
                    BOOST_TEST(tile.heads <= rounds.front().heads);
                    actual.add_tile(tile, heads_of(tile));
                    places.add(heads_of(tile), tile.first_query, tile.queries);
                }
                BOOST_TEST(places.are_different());
                BOOST_TEST((actual == expected));
                BOOST_TEST(std::is_sorted(rounds.front().tiles.begin(), rounds.front().tiles.end(),
                                          [](const AttentionTile& a, const AttentionTile& b) {
                                              return a.keys + a.keys_behind >
                                                     b.keys + b.keys_behind;
                                          }));
            }
        }
    }
}

// What sees not all of its keys, or has other queries, has its turn later.
BOOST_AUTO_TEST_CASE(tiles_are_joined_where_they_add_to_the_same_queries) {
    const AttentionItem triangle{{0, 4}, {0, 10}, {0, 10}, true};
    const AttentionItem square{{1, 3}, {0, 10}, {20, 25}, false};
    const auto tiles_of = [&](const AttentionItem& second, const AttentionItem& third) {
        const std::vector<AttentionItem> items = {triangle, second, third};
        std::vector<std::size_t> counts;
        for (const AttentionRound& round : joined(query_tiles(items, 64))) {
            counts.push_back(round.tiles.size());
        }
        return counts;
    };
    using Counts = std::vector<std::size_t>;
    // Heads 0, 1 and 2, 3; then the second of two squares of the same heads.
    BOOST_TEST((tiles_of(square, {{3, 4}, {0, 10}, {20, 25}, false}) == Counts{3}));
    BOOST_TEST((tiles_of(square, square) == Counts{3, 1}));
    BOOST_TEST((tiles_of({{1, 3}, {0, 10}, {20, 30}, true}, {{3, 4}, {0, 9}, {0, 5}, false}) ==
                Counts{1, 2}));
}

// The same sums wherever a shard begins: mathematics.md, section 7.
BOOST_AUTO_TEST_CASE(tiles_are_the_same_in_all_aligned_layouts) {
    using Tile = std::tuple<Index, Index, Index, Index, Index, Index, Index>;
    const auto tiles_of = [](Index ranks, Index chunks, auto make) {
        const Case c{{.length = 800, .group = 200, .ranks = ranks, .chunks = chunks}, {9, 3}};
        std::multiset<Tile> tiles;
        for_calls(c, [&](Index shard, const std::vector<AttentionItem>& items, Range block) {
            const Index first = c.layout.tokens(shard).begin;
            for (const AttentionRound& round : make(items)) {
                for (const AttentionTile& tile : round.tiles) {
                    tiles.insert({first + tile.first_query, tile.queries,
                                  block.begin + tile.first_key, tile.keys, tile.diagonal,
                                  tile.first_head, tile.heads});
                }
            }
        });
        return tiles;
    };
    const auto by_queries = [](const auto& items) { return query_tiles(items); };
    const auto by_keys = [](const auto& items) { return key_tiles(items, 3); };
    const std::vector<std::pair<Index, Index>> others = {{2, 1}, {1, 4}, {4, 2}};
    for (const auto& [ranks, chunks] : others) {
        BOOST_TEST((tiles_of(1, 1, by_queries) == tiles_of(ranks, chunks, by_queries)));
        BOOST_TEST((tiles_of(1, 1, by_keys) == tiles_of(ranks, chunks, by_keys)));
    }
}

// The first heads of all windows would take turns in the cache.
BOOST_AUTO_TEST_CASE(tiles_of_a_window_of_keys_follow_one_another) {
    const Layout layout{.length = 4 * attention_window, .group = attention_window / 2};
    const auto items = plan_shard(layout, {2, 1}, 0).own_items();
    const auto is_in_order = [&](const AttentionRound& round, auto length) {
        return std::is_sorted(round.tiles.begin(), round.tiles.end(),
                              [&](const AttentionTile& a, const AttentionTile& b) {
                                  const auto window_a = a.first_key / attention_window;
                                  const auto window_b = b.first_key / attention_window;
                                  return window_a != window_b ? window_a < window_b
                                                              : length(a) > length(b);
                              });
    };
    for (const AttentionRound& round : joined(query_tiles(items, 128))) {
        BOOST_TEST(round.tiles.back().first_key >= 3 * attention_window);
        BOOST_TEST(is_in_order(
            round, [](const AttentionTile& tile) { return tile.keys + tile.keys_behind; }));
    }
    for (const AttentionRound& round : key_tiles(items, 2, 128)) {
        BOOST_TEST(is_in_order(round, [](const AttentionTile& tile) { return tile.queries; }));
    }
}

// What adds to one place goes one after another, as listed; what does not, at once.
BOOST_AUTO_TEST_CASE(rounds_keep_the_order_of_items) {
    const AttentionItem first{{0, 2}, {0, 10}, {0, 5}, false};
    const AttentionItem beside{{2, 4}, {0, 10}, {0, 5}, false};
    const AttentionItem second{{1, 3}, {9, 12}, {5, 9}, false};
    const AttentionItem below{{0, 4}, {12, 20}, {5, 9}, false};
    const AttentionItem third{{0, 1}, {5, 6}, {9, 12}, false};
    const std::vector<AttentionItem> items = {first, beside, second, below, third};
    const auto keys_of = [](const AttentionRound& round) {
        std::multiset<std::pair<Index, Index>> result;
        for (const AttentionTile& tile : round.tiles) {
            result.insert({tile.first_query, tile.first_key});
        }
        return result;
    };
    using Tiles = std::multiset<std::pair<Index, Index>>;
    const auto rounds = query_tiles(items);
    BOOST_REQUIRE(rounds.size() == 2);
    BOOST_TEST((keys_of(rounds[0]) == Tiles{{0, 0}, {0, 0}, {12, 5}}));
    BOOST_TEST((keys_of(rounds[1]) == Tiles{{9, 5}, {5, 9}}));
    BOOST_TEST(rounds[0].heads == 4);
    BOOST_TEST(rounds[1].heads == 2);

    // Two query heads a K/V head: `second` reads 0 and 1, `below` reads the same keys of both.
    const auto key_rounds = key_tiles(items, 2);
    BOOST_REQUIRE(key_rounds.size() == 2);
    BOOST_TEST((keys_of(key_rounds[0]) == Tiles{{0, 0}, {0, 0}, {9, 5}, {5, 9}}));
    BOOST_TEST((keys_of(key_rounds[1]) == Tiles{{12, 5}}));
    BOOST_TEST(key_rounds[0].heads == 2);
    // With one for all, `beside` adds to what `first` has added to.
    BOOST_TEST(key_tiles(items, 4).size() == 2);
}

BOOST_AUTO_TEST_CASE(nothing_to_see_makes_no_tiles) {
    BOOST_TEST(query_tiles({}).empty());
    BOOST_TEST(key_tiles({}, 1).empty());
    const std::vector<AttentionItem> items = {{{1, 1}, {0, 5}, {0, 5}, true},
                                              {{0, 1}, {3, 3}, {0, 5}, false},
                                              {{0, 1}, {0, 5}, {2, 2}, false}};
    BOOST_TEST(query_tiles(items).empty());
    BOOST_TEST(key_tiles(items, 1).empty());
}

// A triangle with fewer keys than queries, and with more.
BOOST_AUTO_TEST_CASE(triangles_may_be_cut) {
    const std::vector<std::pair<Index, Index>> sizes = {{150, 70}, {70, 150}};
    for (const auto& [queries, keys] : sizes) {
        const std::vector<AttentionItem> items = {{{0, 1}, {2, 2 + queries}, {3, 3 + keys}, true}};
        Counts expected(1, 200, 200);
        Counts by_queries = expected;
        Counts by_keys = expected;
        expected.add_items(items);
        const auto query_rounds = query_tiles(items);
        for (const AttentionTile& tile : query_rounds[0].tiles) {
            by_queries.add_tile(tile, {0, 1});
        }
        const auto key_rounds = key_tiles(items, 1);
        for (const AttentionTile& tile : key_rounds[0].tiles) {
            by_keys.add_tile(tile, {0, 1});
        }
        BOOST_TEST((by_queries == expected));
        BOOST_TEST((by_keys == expected));
    }
}
