#pragma once

#include <string>

#include "core/view.hpp"

namespace longlora {

enum class Pattern { s2, local, shifted, full };  // mathematics.md, section 1
enum class Boundary { truncate, wrap };

// How the heads of a model split into the two classes of S2-Attn. Query head q reads K/V head
// q div (H / Hkv); "shifted" belongs to query heads.
struct Heads {
    Index query;  // H
    Index kv;     // Hkv

    constexpr Index queries_per_kv() const { return query / kv; }
    // The K/V heads that the given query heads read.
    constexpr Range kv_of(Range queries) const {
        if (queries.empty()) {
            return {0, 0};
        }
        return {queries.begin / queries_per_kv(), (queries.end - 1) / queries_per_kv() + 1};
    }
    constexpr bool operator==(const Heads&) const = default;
};

// Who holds which tokens of one sequence, and which pairs are visible: everything that the
// left-context plan is a function of. Shard k = c P + i holds tokens [k T, (k+1) T).
struct Layout {
    Index length = 0;  // N
    Index group = 0;   // G; not used by `full`
    Index ranks = 1;   // P, sequence ranks
    Index chunks = 1;  // C
    Pattern pattern = Pattern::s2;
    Boundary boundary = Boundary::truncate;

    constexpr Index half() const { return pattern == Pattern::full ? length : group / 2; }  // h
    constexpr Index shards() const { return ranks * chunks; }
    constexpr Index shard_length() const { return length / shards(); }  // T
    constexpr Range tokens(Index shard) const {
        return {shard * shard_length(), (shard + 1) * shard_length()};
    }
    constexpr Index chunk_of(Index shard) const { return shard / ranks; }
    // The last shard of a chunk and the first of the next share a rank (section 4).
    constexpr Index rank_of(Index shard) const {
        return ((shard % ranks - shard / ranks) % ranks + ranks) % ranks;
    }
    constexpr Index shard_of(Index chunk, Index rank) const {
        return chunk * ranks + (rank + chunk) % ranks;
    }
    constexpr bool is_aligned() const { return shard_length() % half() == 0; }
    constexpr bool operator==(const Layout&) const = default;
};

// Throws Error (bad input) with one sentence when N, G, P, C, pattern and boundary do not fit.
void check_layout(const Layout& layout);

}  // namespace longlora
