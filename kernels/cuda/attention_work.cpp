#include "kernels/cuda/attention_work.hpp"

#include <limits>
#include <map>

#include "core/error.hpp"

namespace longlora {
namespace {

// What an item writes to.
struct Place {
    Range heads;
    Range rows;
};

// The integers cut at the ends of ranges: each of the ranges is a row of whole pieces.
class Pieces {
public:
    void cut(Range range) {
        cuts_.push_back(range.begin);
        cuts_.push_back(range.end);
    }
    void finish() {
        std::sort(cuts_.begin(), cuts_.end());
        cuts_.erase(std::unique(cuts_.begin(), cuts_.end()), cuts_.end());
    }
    std::size_t count() const { return cuts_.size(); }
    std::size_t piece(Index begin) const {
        return static_cast<std::size_t>(std::lower_bound(cuts_.begin(), cuts_.end(), begin) -
                                        cuts_.begin());
    }

private:
    std::vector<Index> cuts_;
};

// Each place is given the first round after those of the earlier places that it overlaps.
class Rounds {
public:
    explicit Rounds(const std::vector<Place>& places) {
        for (const Place& place : places) {
            heads_.cut(place.heads);
            rows_.cut(place.rows);
        }
        heads_.finish();
        rows_.finish();
        next_.assign(heads_.count() * rows_.count(), 0);
    }

    std::size_t take(const Place& place) {
        std::size_t round = 0;
        for_cells(place, [&](std::size_t next) { round = std::max(round, next); });
        for_cells(place, [&](std::size_t& next) { next = round + 1; });
        return round;
    }

private:
    template <class Body>
    void for_cells(const Place& place, const Body& body) {
        for (auto h = heads_.piece(place.heads.begin); h < heads_.piece(place.heads.end); ++h) {
            for (auto r = rows_.piece(place.rows.begin); r < rows_.piece(place.rows.end); ++r) {
                body(next_[h * rows_.count() + r]);
            }
        }
    }

    Pieces heads_;
    Pieces rows_;
    std::vector<std::size_t> next_;
};

std::int32_t narrow(Index i) { return static_cast<std::int32_t>(i); }

AttentionTile make_tile(Range queries, Range keys, Index diagonal, Range heads) {
    return {narrow(queries.begin),
            narrow(queries.size()),
            narrow(keys.begin),
            narrow(keys.size()),
            narrow(diagonal),
            static_cast<std::int16_t>(heads.begin),
            static_cast<std::int16_t>(heads.size())};
}

Range next_rows(Range all, Index first, Index rows) {
    return {all.begin + first, std::min(all.begin + first + rows, all.end)};
}

void add_query_tiles(const AttentionItem& item, Index rows, std::vector<AttentionTile>& tiles) {
    for (Index row = 0; row < item.queries.size(); row += rows) {
        const Range queries = next_rows(item.queries, row, rows);
        Range keys = item.keys;
        if (item.is_causal) {
            keys.end = std::min(keys.end, keys.begin + row + queries.size());
        }
        tiles.push_back(
            make_tile(queries, keys, item.is_causal ? row + 1 : keys.size(), item.heads));
    }
}

void add_key_tiles(const AttentionItem& item, Index rows, std::vector<AttentionTile>& tiles) {
    for (Index row = 0; row < item.keys.size(); row += rows) {
        const Range keys = next_rows(item.keys, row, rows);
        Range queries = item.queries;
        if (item.is_causal) {
            queries.begin += row;  // earlier ones see none of these keys
        }
        if (!queries.empty()) {
            tiles.push_back(make_tile(queries, keys, item.is_causal ? 1 : keys.size(), item.heads));
        }
    }
}

bool is_nothing(const AttentionItem& item) {
    return item.heads.empty() || item.queries.empty() || item.keys.empty();
}

Place written_queries(const AttentionItem& item) { return {item.heads, item.queries}; }

Place written_keys(const AttentionItem& item, Index queries_per_kv) {
    return {{item.heads.begin / queries_per_kv, (item.heads.end - 1) / queries_per_kv + 1},
            item.keys};
}

template <class Length>
void sort_by_length(std::vector<AttentionTile>& tiles, const Length& length) {
    const auto place = [&](const AttentionTile& tile) {
        return std::pair(tile.first_key / attention_window, -length(tile));
    };
    std::stable_sort(
        tiles.begin(), tiles.end(),
        [&](const AttentionTile& a, const AttentionTile& b) { return place(a) < place(b); });
}

// place_of(item) names what its tiles write, add(item, tiles) makes them, length(tile) is the loop.
template <class PlaceOf, class Add, class Length>
std::vector<AttentionRound> make_rounds(std::span<const AttentionItem> all, const PlaceOf& place_of,
                                        const Add& add, const Length& length) {
    std::vector<AttentionItem> items;
    std::vector<Place> places;
    for (const AttentionItem& item : all) {
        if (!is_nothing(item)) {
            ensure(item.heads.end <= std::numeric_limits<std::int16_t>::max(), "too many heads");
            items.push_back(item);
            places.push_back(place_of(item));
        }
    }
    Rounds taken(places);
    std::vector<AttentionRound> rounds;
    for (std::size_t i = 0; i < items.size(); ++i) {
        const std::size_t number = taken.take(places[i]);
        rounds.resize(std::max(rounds.size(), number + 1));
        AttentionRound& round = rounds[number];
        add(items[i], round.tiles);
        round.heads = std::max(round.heads, narrow(places[i].heads.size()));
    }
    for (AttentionRound& round : rounds) {
        sort_by_length(round.tiles, length);
    }
    return rounds;
}

// Tiles of a round by their first query, which tiles of other heads may share.
using TilesByQuery = std::multimap<std::int32_t, AttentionTile>;

// The part of a tile that has the heads from `begin` on, if any.
void add_heads(AttentionTile tile, int begin, int end, TilesByQuery& tiles) {
    if (begin < end) {
        tile.first_head = static_cast<std::int16_t>(begin);
        tile.heads = static_cast<std::int16_t>(end - begin);
        tiles.emplace(tile.first_query, tile);
    }
}

bool has_room_behind(const AttentionTile& tile, const AttentionTile& other) {
    return tile.keys_behind == 0 && tile.queries == other.queries &&
           tile.first_head <= other.first_head &&
           tile.first_head + tile.heads >= other.first_head + other.heads;
}

// Heads of `before` that do not have these keys behind theirs become tiles of their own.
bool join(TilesByQuery& before, const AttentionTile& tile) {
    if (tile.diagonal < tile.keys || tile.keys_behind > 0) {
        return false;
    }
    const auto [begin, end] = before.equal_range(tile.first_query);
    const auto at = std::find_if(
        begin, end, [&](const auto& entry) { return has_room_behind(entry.second, tile); });
    if (at == end) {
        return false;
    }
    AttentionTile whole = at->second;
    before.erase(at);
    const int first = tile.first_head;
    const int last = first + tile.heads;
    add_heads(whole, whole.first_head, first, before);
    add_heads(whole, last, whole.first_head + whole.heads, before);
    whole.first_key_behind = tile.first_key;
    whole.keys_behind = tile.keys;
    add_heads(whole, first, last, before);
    return true;
}

// What of `next` can be joined leaves it.
void join(AttentionRound& round, AttentionRound& next) {
    TilesByQuery tiles;
    for (const AttentionTile& tile : round.tiles) {
        tiles.emplace(tile.first_query, tile);
    }
    std::erase_if(next.tiles, [&](const AttentionTile& tile) { return join(tiles, tile); });
    round = {};
    for (const auto& [query, tile] : tiles) {
        round.tiles.push_back(tile);
        round.heads = std::max<std::int32_t>(round.heads, tile.heads);
    }
    sort_by_length(round.tiles,
                   [](const AttentionTile& tile) { return tile.keys + tile.keys_behind; });
}

}  // namespace

std::vector<AttentionRound> query_tiles(std::span<const AttentionItem> items, Index rows) {
    const auto add = [&](const AttentionItem& item, std::vector<AttentionTile>& tiles) {
        add_query_tiles(item, rows, tiles);
    };
    return make_rounds(items, written_queries, add,
                       [](const AttentionTile& tile) { return tile.keys; });
}

std::vector<AttentionRound> joined(std::vector<AttentionRound> rounds) {
    for (std::size_t i = 1; i < rounds.size(); ++i) {
        join(rounds[i - 1], rounds[i]);
    }
    std::erase_if(rounds, [](const AttentionRound& round) { return round.tiles.empty(); });
    return rounds;
}

std::vector<AttentionRound> key_tiles(std::span<const AttentionItem> items, Index queries_per_kv,
                                      Index rows) {
    const auto add = [&](const AttentionItem& item, std::vector<AttentionTile>& tiles) {
        add_key_tiles(item, rows, tiles);
    };
    return make_rounds(
        items, [&](const AttentionItem& item) { return written_keys(item, queries_per_kv); }, add,
        [](const AttentionTile& tile) { return tile.queries; });
}

bool are_apart(std::span<const AttentionItem> items, Index queries_per_kv) {
    constexpr Index whole = std::numeric_limits<Index>::max() / 2;  // a tile for each item
    return query_tiles(items, whole).size() <= 1 &&
           key_tiles(items, queries_per_kv, whole).size() <= 1;
}

}  // namespace longlora
