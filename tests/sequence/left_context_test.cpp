#include "sequence/left_context.hpp"

#include <algorithm>
#include <functional>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "core/error.hpp"
#include "sequence/visible.hpp"

using namespace longlora;
using longlora::test::is_shifted;
using longlora::test::is_visible;

namespace {

bool fits(const Layout& layout) {
    try {
        check_layout(layout);
    } catch (const Error&) {
        return false;
    }
    return true;
}

const std::vector<Heads> all_heads = {{4, 2}, {3, 1}, {9, 3}, {1, 1}, {5, 5}, {6, 2}};

using Check = std::function<void(const Layout&, const Heads&)>;

// Shards smaller than, equal to and larger than groups; aligned or not; every pattern and boundary.
void for_layouts(const Check& check) {
    for (const Index length : {24, 60}) {
        for (const Index group : {2, 4, 8, 12, 24, 40, 48, 120}) {
            for (const Index ranks : {1, 2, 3, 4, 6}) {
                for (const Index chunks : {1, 2, 3, 5}) {
                    for (const Pattern pattern :
                         {Pattern::s2, Pattern::local, Pattern::shifted, Pattern::full}) {
                        for (const Boundary boundary : {Boundary::truncate, Boundary::wrap}) {
                            const Layout layout{length, group, ranks, chunks, pattern, boundary};
                            if (fits(layout)) {
                                check(layout,
                                      all_heads[static_cast<std::size_t>(ranks + chunks + group) %
                                                all_heads.size()]);
                            }
                        }
                    }
                }
            }
        }
    }
}

// How often a plan lists each (query, key, head).
class Counts {
public:
    Counts(const Layout& layout, const Heads& heads)
        : length_(layout.length),
          counts_(static_cast<std::size_t>(layout.length * layout.length * heads.query)) {}

    int& at(Index head, Index query, Index key) {
        return counts_[static_cast<std::size_t>((head * length_ + query) * length_ + key)];
    }

    void add(const AttentionItem& item, Index first_query, Index first_key) {
        for (Index head = item.heads.begin; head < item.heads.end; ++head) {
            for (Index q = 0; q < item.queries.size(); ++q) {
                const Index keys = item.is_causal ? q + 1 : item.keys.size();
                for (Index k = 0; k < keys; ++k) {
                    ++at(head, first_query + item.queries.begin + q,
                         first_key + item.keys.begin + k);
                }
            }
        }
    }

private:
    Index length_;
    std::vector<int> counts_;
};

bool is_inside(const Range& inner, const Range& outer) {
    return !inner.empty() && inner.begin >= outer.begin && inner.end <= outer.end;
}

bool own_item_fits(const Layout& layout, const Heads& heads, const AttentionItem& item) {
    const Range rows{0, layout.shard_length()};
    return is_inside(item.heads, {0, heads.query}) && is_inside(item.queries, rows) &&
           is_inside(item.keys, rows) && (!item.is_causal || item.keys == item.queries);
}

bool block_fits(const Layout& layout, const Heads& heads, const ContextBlock& block, Index shard) {
    const bool is_earlier = block.owner < shard;
    const bool is_wrap = layout.boundary == Boundary::wrap && block.owner > shard;
    const bool items_fit =
        std::all_of(block.items.begin(), block.items.end(), [&](const AttentionItem& item) {
            return !item.is_causal && is_inside(item.queries, {0, layout.shard_length()}) &&
                   is_inside(item.keys, {0, block.rows()}) &&
                   is_inside(item.heads, {0, heads.query}) &&
                   is_inside(heads.kv_of(item.heads), block.kv_heads);
        });
    return block.consumer == shard && (is_earlier || is_wrap) && items_fit &&
           is_inside(block.tokens, layout.tokens(block.owner)) &&
           is_inside(block.kv_heads, {0, heads.kv});
}

// Whether some item needs each row of each K/V head that travels.
bool nothing_is_useless(const Heads& heads, const ContextBlock& block) {
    for (Index kv = block.kv_heads.begin; kv < block.kv_heads.end; ++kv) {
        for (Index row = 0; row < block.rows(); ++row) {
            const bool is_needed =
                std::any_of(block.items.begin(), block.items.end(), [&](const AttentionItem& item) {
                    return is_inside({row, row + 1}, item.keys) &&
                           is_inside({kv, kv + 1}, heads.kv_of(item.heads));
                });
            if (!is_needed) {
                return false;
            }
        }
    }
    return true;
}

std::string name(const Layout& layout, const Heads& heads) {
    return "N " + std::to_string(layout.length) + " G " + std::to_string(layout.group) + " P " +
           std::to_string(layout.ranks) + " C " + std::to_string(layout.chunks) + " pattern " +
           std::to_string(static_cast<int>(layout.pattern)) + " boundary " +
           std::to_string(static_cast<int>(layout.boundary)) + " heads " +
           std::to_string(heads.query) + "/" + std::to_string(heads.kv);
}

double travelling_heads(const Layout& layout, const Heads& heads, Index border) {
    const Index half = heads.query / 2;
    const Index per_kv = heads.query / heads.kv;
    const bool is_shifted_border = border % layout.group == 0;
    switch (layout.pattern) {
        case Pattern::s2:
            return static_cast<double>(is_shifted_border ? heads.kv - half / per_kv
                                                         : (half + per_kv - 1) / per_kv);
        case Pattern::shifted:
            return is_shifted_border ? static_cast<double>(heads.kv) : 0.0;
        default:
            return is_shifted_border ? 0.0 : static_cast<double>(heads.kv);
    }
}

std::vector<AttentionItem> own_items(const ShardPlan& plan) {
    std::vector<AttentionItem> items = plan.triangles;
    items.insert(items.end(), plan.rectangles.begin(), plan.rectangles.end());
    return items;
}

constexpr Index layers = 3;
constexpr Index head_dim = 4;

}  // namespace

BOOST_AUTO_TEST_CASE(every_visible_pair_is_listed_exactly_once) {
    Index cases = 0;
    for_layouts([&](const Layout& layout, const Heads& heads) {
        Counts counts(layout, heads);
        for (Index shard = 0; shard < layout.shards(); ++shard) {
            const Index first = layout.tokens(shard).begin;
            const ShardPlan plan = plan_shard(layout, heads, shard);
            for (const AttentionItem& item : own_items(plan)) {
                counts.add(item, first, first);
            }
            for (const ContextBlock& block : plan.blocks) {
                for (const AttentionItem& item : block.items) {
                    counts.add(item, first, block.tokens.begin);
                }
            }
        }
        Index wrong = 0;
        for (Index head = 0; head < heads.query; ++head) {
            const bool shifted = is_shifted(layout, heads, head);
            for (Index p = 0; p < layout.length; ++p) {
                for (Index j = 0; j < layout.length; ++j) {
                    wrong += counts.at(head, p, j) != (is_visible(layout, shifted, p, j) ? 1 : 0);
                }
            }
        }
        BOOST_TEST(wrong == 0, name(layout, heads) << ": " << wrong << " pairs are wrong");
        ++cases;
    });
    BOOST_TEST(cases > 500);
}

BOOST_AUTO_TEST_CASE(items_and_blocks_stay_inside_what_they_refer_to) {
    for_layouts([](const Layout& layout, const Heads& heads) {
        for (Index shard = 0; shard < layout.shards(); ++shard) {
            const ShardPlan plan = plan_shard(layout, heads, shard);
            for (const AttentionItem& item : own_items(plan)) {
                BOOST_TEST(own_item_fits(layout, heads, item), name(layout, heads));
            }
            for (const ContextBlock& block : plan.blocks) {
                BOOST_TEST(block_fits(layout, heads, block, shard), name(layout, heads));
                BOOST_TEST(nothing_is_useless(heads, block), name(layout, heads));
            }
        }
    });
}

// The nearest block first: it is the one that arrives first, and the order fixes the sums.
BOOST_AUTO_TEST_CASE(blocks_come_by_descending_position_with_wraps_last) {
    for_layouts([](const Layout& layout, const Heads& heads) {
        for (Index shard = 0; shard < layout.shards(); ++shard) {
            const auto distance = [&](const ContextBlock& block) {
                return (shard - block.owner + layout.shards()) % layout.shards();
            };
            const auto blocks = plan_shard(layout, heads, shard).blocks;
            const bool is_sorted = std::is_sorted(
                blocks.begin(), blocks.end(),
                [&](const auto& a, const auto& b) { return distance(a) < distance(b); });
            const bool has_wrap = std::any_of(blocks.begin(), blocks.end(),
                                              [&](const auto& b) { return b.owner > shard; });
            BOOST_TEST((is_sorted || has_wrap), name(layout, heads));
            BOOST_TEST((!has_wrap || blocks.back().owner > shard), name(layout, heads));
        }
    });
}

// A border of aligned shards is straddled by one kind of head, and costs 2 h Hkv_travelling D
// elements a layer and direction; a border between chunks costs none: both sides share a rank.
BOOST_AUTO_TEST_CASE(aligned_shards_send_one_half_group_at_each_border_inside_a_chunk) {
    for_layouts([](const Layout& layout, const Heads& heads) {
        if (layout.pattern == Pattern::full || !layout.is_aligned() ||
            layout.boundary == Boundary::wrap) {
            return;
        }
        double forward = 0;
        double backward = 0;
        for (Index shard = 1; shard < layout.shards(); ++shard) {
            if (shard % layout.ranks == 0) {
                continue;
            }
            const double elements = 2.0 * head_dim * static_cast<double>(layout.half()) *
                                    travelling_heads(layout, heads, layout.tokens(shard).begin);
            const bool has_first_pass = layout.chunk_of(shard) + 1 < layout.chunks;
            forward += elements * (layers + (has_first_pass ? layers - 1 : 0));
            backward += elements * layers;
        }
        const Traffic traffic = training_traffic(layout, heads, head_dim, layers);
        BOOST_TEST(traffic.forward == forward, name(layout, heads));
        BOOST_TEST(traffic.backward == backward, name(layout, heads));
    });
}

// 2 h Hkv_travelling D (P-1) [2 C L + (C-1)(L-1)]
BOOST_AUTO_TEST_CASE(traffic_follows_the_formula_where_a_shard_holds_whole_groups) {
    for (const Heads& heads : all_heads) {
        for (const Index ranks : {1, 2, 3, 4, 8}) {
            for (const Index chunks : {1, 2, 3, 4}) {
                const Layout layout{
                    .length = 16 * ranks * chunks, .group = 8, .ranks = ranks, .chunks = chunks};
                const double border = 2.0 * 4 * travelling_heads(layout, heads, 0) * head_dim;
                const auto factor = static_cast<double>(
                    (ranks - 1) * (2 * chunks * layers + (chunks - 1) * (layers - 1)));
                const Traffic traffic = training_traffic(layout, heads, head_dim, layers);
                BOOST_TEST(traffic.forward + traffic.backward == border * factor,
                           name(layout, heads));
            }
        }
    }
    BOOST_TEST(travelling_heads({.length = 8, .group = 8}, {9, 3}, 0) == 2);
    BOOST_TEST(travelling_heads({.length = 8, .group = 8}, {9, 3}, 4) == 2);
}

// N (P-1) C / 2 tokens of K and V for each head and layer
BOOST_AUTO_TEST_CASE(full_attention_sends_every_earlier_shard_of_another_rank) {
    for (const Index ranks : {1, 2, 3, 5}) {
        for (const Index chunks : {1, 2, 3, 4}) {
            const Layout layout{.length = 7 * ranks * chunks,
                                .group = 0,
                                .ranks = ranks,
                                .chunks = chunks,
                                .pattern = Pattern::full};
            const Heads heads{6, 2};
            const auto tokens = static_cast<double>(layout.length * (ranks - 1) * chunks) / 2;
            const Traffic traffic = training_traffic(layout, heads, head_dim, layers);
            BOOST_TEST(traffic.backward == 2 * tokens * heads.kv * head_dim * layers);
            BOOST_TEST(traffic.forward <= 2 * traffic.backward);
            BOOST_TEST(traffic.forward >= traffic.backward);
        }
    }
}

BOOST_AUTO_TEST_CASE(wrap_closes_the_ring_with_one_more_message) {
    const Heads heads{4, 2};
    for (const Index ranks : {1, 2, 4}) {
        const Layout open{.length = 32, .group = 8, .ranks = ranks};
        Layout ring = open;
        ring.boundary = Boundary::wrap;
        const double border = ranks > 1 ? 2.0 * 4 * 1 * head_dim * layers : 0.0;
        BOOST_TEST(training_traffic(ring, heads, head_dim, layers).forward ==
                   training_traffic(open, heads, head_dim, layers).forward + border);
    }
    const auto blocks =
        plan_shard({.length = 32, .group = 8, .ranks = 4, .boundary = Boundary::wrap}, heads, 0)
            .blocks;
    BOOST_REQUIRE(blocks.size() == 1);
    BOOST_TEST(blocks[0].owner == 3);
    BOOST_TEST((blocks[0].tokens == Range{28, 32}));
    BOOST_TEST((blocks[0].kv_heads == Range{1, 2}));
}

// N(G+1)/2 unshifted, N(G+1)/2 - G^2/4 shifted, N(N+1)/2 full; whatever the ranks and chunks
BOOST_AUTO_TEST_CASE(visible_pairs_are_linear_in_the_length) {
    for_layouts([](const Layout& layout, const Heads& heads) {
        const auto N = static_cast<double>(layout.length);
        const auto G = static_cast<double>(layout.group);
        double expected = 0;
        if (layout.pattern != Pattern::full && layout.length % layout.group != 0) {
            return;
        }
        for (Index head = 0; head < heads.query; ++head) {
            const bool loses =
                is_shifted(layout, heads, head) && layout.boundary == Boundary::truncate;
            expected += layout.pattern == Pattern::full ? N * (N + 1) / 2
                                                        : N * (G + 1) / 2 - (loses ? G * G / 4 : 0);
        }
        BOOST_TEST(visible_pairs(layout, heads) == expected, name(layout, heads));
    });
}
