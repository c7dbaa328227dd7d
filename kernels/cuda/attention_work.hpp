#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "core/transfer.hpp"
#include "sequence/attention_item.hpp"

// Attention's items cut into the tiles that blocks of threads take, by the host: kernels know tiles and
// one diagonal, no groups. Tiles count from the beginning of their item, so that none straddles two
// half-groups and the same sums are formed wherever a shard begins.
namespace longlora {

// Some queries against some keys, for each of some query heads.
struct AttentionTile {
    std::int32_t first_query;
    std::int32_t queries;
    std::int32_t first_key;
    std::int32_t keys;
    std::int32_t diagonal;  // query i of the tile sees its keys j < i + diagonal
    std::int16_t first_head;
    std::int16_t heads;
    // Further keys, all of which all queries see, to come after those: where tiles were joined.
    std::int32_t first_key_behind = 0;
    std::int32_t keys_behind = 0;

    constexpr bool operator==(const AttentionTile&) const = default;
};

// Rows that a block of threads owns, and writes: queries (forward, dQ) or keys (dK, dV). Kernels for
// Hopper take more.
constexpr Index attention_tile_rows = 64;

// Tokens whose K/V (heads of 128 times 2 bytes) of two heads are 32 MiB.
constexpr std::int32_t attention_window = 32768;

// Tiles that write to different places: they may run at once. What rounds add to one place comes in
// the order of the items.
struct AttentionRound {
    // Those of a window of keys follow one another, for keys to stay in the cache; of each the longest
    // first: they end at about the same time.
    std::vector<AttentionTile> tiles;
    std::int32_t heads = 0;  // the most of one tile: query heads, or K/V heads
};

// For forward and dQ: up to `rows` queries, and all keys of the item that one of them sees.
std::vector<AttentionRound> query_tiles(std::span<const AttentionItem> items,
                                        Index rows = attention_tile_rows);

// Each tile whose queries see all of its keys behind one of the round before that has the same queries
// and, maybe among others, the same heads: the queries are fetched once, and what is known of them stays
// in registers. Rounds that are left without a tile are left out.
std::vector<AttentionRound> joined(std::vector<AttentionRound> rounds);

// For dK and dV: up to `rows` keys, and all queries of the item that see one of them.
std::vector<AttentionRound> key_tiles(std::span<const AttentionItem> items, Index queries_per_kv,
                                      Index rows = attention_tile_rows);

// Whether no two items write to one place, in any of the gradients.
bool are_apart(std::span<const AttentionItem> items, Index queries_per_kv);

// Tiles of one round on the device; a block of threads for each tile and head.
struct AttentionWork {
    const AttentionTile* tiles;
    std::int32_t count;
    std::int32_t heads;
};

// Calls launch(work) for rounds of tiles, in order. The tiles pass through the stream's workspace, which
// the next product may use as soon as the kernel has ended.
template <class Launch>
void for_each_work(const CudaStream& stream, const std::vector<AttentionRound>& rounds,
                   const Launch& launch) {
    // So much of ordinary memory CUDA takes along at once; for more, the host may have to wait.
    constexpr std::size_t most = (std::size_t{64} << 10U) / sizeof(AttentionTile);
    static_assert(most * sizeof(AttentionTile) <= CudaStream::workspace_bytes);
    for (const AttentionRound& round : rounds) {
        for (std::size_t first = 0; first < round.tiles.size(); first += most) {
            const std::size_t count = std::min(most, round.tiles.size() - first);
            copy_to_device(stream, stream.workspace(), round.tiles.data() + first,
                           count * sizeof(AttentionTile));
            launch(AttentionWork{static_cast<const AttentionTile*>(stream.workspace()),
                                 static_cast<std::int32_t>(count), round.heads});
        }
    }
}

}  // namespace longlora
