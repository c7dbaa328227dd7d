#include "model/kept_context.hpp"

#include <algorithm>
#include <functional>

#include <boost/test/unit_test.hpp>

#include "core/error.hpp"

using namespace longlora;

namespace {

constexpr Index layers = 2;
constexpr Index head_dim = 2;
const Heads heads{6, 2};

using Check = std::function<void(const Layout&, Index rank)>;

// Shards of T tokens, smaller than, equal to and larger than groups.
void for_layouts(const Check& check) {
    for (const Pattern pattern : {Pattern::s2, Pattern::local, Pattern::shifted, Pattern::full}) {
        for (const Index tokens : {3, 4, 8, 12, 16}) {
            for (const Index group : {4, 8, 24, 48}) {
                for (const Index ranks : {1, 2, 3, 4}) {
                    for (const Index chunks : {1, 2, 3, 5, 8}) {
                        const Layout layout{.length = tokens * ranks * chunks,
                                            .group = group,
                                            .ranks = ranks,
                                            .chunks = chunks,
                                            .pattern = pattern};
                        if (pattern != Pattern::full && layout.length % layout.half() != 0) {
                            continue;
                        }
                        for (Index rank = 0; rank < ranks; ++rank) {
                            check(layout, rank);
                        }
                    }
                }
            }
        }
    }
}

std::size_t measured(const Layout& layout, Index rank, bool wants_gradients) {
    auto arena = Arena<Cpu>::measuring("test");
    KeptContext<Cpu>(arena, {layout, heads, head_dim, layers, wants_gradients}, rank);
    return arena.used();
}

// Memory and the object in it.
struct Kept {
    Kept(const Layout& layout, Index rank)
        : arena("test", measured(layout, rank, true)),
          context(arena, {layout, heads, head_dim, layers, true}, rank) {}

    Arena<Cpu> arena;
    KeptContext<Cpu> context;
};

bool overlap(View<Cpu, float, 1> a, View<Cpu, float, 1> b) {
    return a.data() < b.data() + b.size() && b.data() < a.data() + a.size();
}

// dK/dV of a block are collected from its last consumer's backward to the owner's, which runs later
// (chunks descend) and reads before anything is added in its own chunk: alive in chunks
// (owner's, last consumer's].
bool are_alive_together(const Layout& layout, const KeptBlock& a, const KeptBlock& b) {
    return std::max(layout.chunk_of(a.owner), layout.chunk_of(b.owner)) <
           std::min(a.last_consumer, b.last_consumer);
}

// All blocks of the plan that come from an earlier chunk of this rank.
std::vector<ContextBlock> wanted_blocks(const Layout& layout, Index rank) {
    std::vector<ContextBlock> wanted;
    for (Index shard = 0; shard < layout.shards(); ++shard) {
        for (const ContextBlock& block : plan_shard(layout, heads, shard).blocks) {
            if (layout.rank_of(block.owner) == rank &&
                layout.chunk_of(block.owner) < layout.chunk_of(shard)) {
                wanted.push_back(block);
            }
        }
    }
    return wanted;
}

std::string name(const Layout& layout, Index rank) {
    return "N " + std::to_string(layout.length) + " G " + std::to_string(layout.group) + " P " +
           std::to_string(layout.ranks) + " C " + std::to_string(layout.chunks) + " pattern " +
           std::to_string(static_cast<int>(layout.pattern)) + " rank " + std::to_string(rank);
}

}  // namespace

BOOST_AUTO_TEST_CASE(every_block_that_a_later_chunk_needs_is_kept_once) {
    for_layouts([](const Layout& layout, Index rank) {
        const Kept kept(layout, rank);
        std::vector<Index> last(kept.context.blocks().size(), -1);
        for (const ContextBlock& block : wanted_blocks(layout, rank)) {
            const auto place = static_cast<std::size_t>(kept.context.find(block));
            last[place] = std::max(last[place], layout.chunk_of(block.consumer));
            const KeptBlock& found = kept.context.blocks()[place];
            BOOST_TEST(found.owner == block.owner);
            BOOST_TEST((found.tokens == block.tokens && found.kv_heads == block.kv_heads));
        }
        for (std::size_t i = 0; i < last.size(); ++i) {
            BOOST_TEST(kept.context.blocks()[i].last_consumer == last[i], name(layout, rank));
        }
    });
}

BOOST_AUTO_TEST_CASE(kept_keys_and_values_never_share_memory) {
    for_layouts([](const Layout& layout, Index rank) {
        const Kept kept(layout, rank);
        const auto& blocks = kept.context.blocks();
        Index shared = 0;
        for (std::size_t i = 0; i < blocks.size(); ++i) {
            const auto mine = kept.context.keys_values().stored(0, kept.context.place(blocks[i]));
            BOOST_TEST(mine.flat().size() == blocks[i].elements(head_dim));
            BOOST_TEST(mine.v.data() == mine.k.data() + mine.k.rows() * mine.k.columns());
            for (std::size_t j = 0; j < blocks.size(); ++j) {
                shared +=
                    j != i &&
                    overlap(
                        mine.flat(),
                        kept.context.keys_values().stored(0, kept.context.place(blocks[j])).flat());
                shared += overlap(
                    mine.flat(),
                    kept.context.keys_values().stored(1, kept.context.place(blocks[j])).flat());
                shared += overlap(mine.flat(), kept.context.gradients(0, blocks[j]).flat());
            }
        }
        BOOST_TEST(shared == 0, name(layout, rank));
    });
}

BOOST_AUTO_TEST_CASE(gradients_share_memory_only_when_never_alive_together) {
    Index reused = 0;
    for_layouts([&](const Layout& layout, Index rank) {
        const Kept kept(layout, rank);
        const auto& blocks = kept.context.blocks();
        Index clashes = 0;
        for (std::size_t i = 0; i < blocks.size(); ++i) {
            const auto mine = kept.context.gradients(0, blocks[i]).flat();
            for (std::size_t j = 0; j < blocks.size(); ++j) {
                const bool is_shared =
                    j != i && overlap(mine, kept.context.gradients(0, blocks[j]).flat());
                reused += is_shared;
                clashes += is_shared && are_alive_together(layout, blocks[i], blocks[j]);
                clashes += overlap(mine, kept.context.gradients(1, blocks[j]).flat());
            }
        }
        BOOST_TEST(clashes == 0, name(layout, rank));
    });
    BOOST_TEST(reused > 0);
}

// Per chunk border L * 2 h Hkv_travelling D elements of K/V, at most ceil((C-1)/P) borders a rank,
// and one border's dK/dV.
BOOST_AUTO_TEST_CASE(memory_of_aligned_shards_follows_the_formula) {
    for (const Index ranks : {1, 2, 3, 4}) {
        for (const Index chunks : {1, 2, 3, 5, 8}) {
            const Layout layout{
                .length = 16 * ranks * chunks, .group = 8, .ranks = ranks, .chunks = chunks};
            const Index travelling = 1;  // shifted: heads 3 .. 5 read K/V head 1
            const auto border =
                static_cast<std::size_t>(layers * 2 * layout.half() * travelling * head_dim) *
                sizeof(float);
            const Index most = (chunks - 1 + ranks - 1) / ranks;
            Index borders = 0;
            for (Index rank = 0; rank < ranks; ++rank) {
                const auto mine = static_cast<Index>(Kept(layout, rank).context.blocks().size());
                BOOST_TEST(mine <= most);
                BOOST_TEST(measured(layout, rank, false) ==
                           static_cast<std::size_t>(mine) * border);
                BOOST_TEST(measured(layout, rank, true) ==
                           static_cast<std::size_t>(mine + std::min<Index>(mine, 1)) * border);
                borders += mine;
            }
            BOOST_TEST(borders == chunks - 1);
        }
    }
}

BOOST_AUTO_TEST_CASE(a_block_that_is_not_kept_is_an_error) {
    const Layout layout{.length = 32, .group = 8, .ranks = 2, .chunks = 2};
    const Kept kept(layout, layout.rank_of(1));
    BOOST_CHECK_THROW(kept.context.find({1, 2, {0, 1}, {0, 4}, {}}), Error);
}
