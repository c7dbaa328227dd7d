#pragma once

#include <vector>

#include "sequence/attention_item.hpp"
#include "sequence/layout.hpp"

// The left-context plan: a pure function of (N, G, P, C, pattern, boundary) and the head counts.
// A shard needs the K/V of earlier tokens in its groups and nothing else; the same list, read
// backwards, serves dK and dV (mathematics.md, section 2).
namespace longlora {

// One block of K/V that a shard needs from another one.
struct ContextBlock {
    Index owner;     // shard that holds the tokens
    Index consumer;  // shard that needs them
    Range kv_heads;
    Range tokens;                      // absolute positions, inside the owner's shard
    std::vector<AttentionItem> items;  // what the consumer attends; keys count from tokens.begin

    Index rows() const { return tokens.size(); }
    // Elements of K and V together for head dimension D.
    Index elements(Index head_dim) const { return 2 * rows() * kv_heads.size() * head_dim; }
};

// All that one shard attends.
struct ShardPlan {
    std::vector<AttentionItem> triangles;  // keys of the shard itself, counted from its first token
    std::vector<AttentionItem> rectangles;  // likewise; in aligned shards squares that share no key
    std::vector<ContextBlock> blocks;       // by descending position: nearest first; wrap's last

    // Triangles, then rectangles.
    std::vector<AttentionItem> own_items() const;
};

ShardPlan plan_shard(const Layout& layout, const Heads& heads, Index shard);

// Elements of K/V sent between ranks for one training row, all ranks together: 2C - 1 forwards
// (the last layer of a first pass sends nothing) and C backwards. Elements of dK/dV are counted too.
struct Traffic {
    double forward = 0;   // K and V, storage type
    double backward = 0;  // dK and dV, float
};
Traffic training_traffic(const Layout& layout, const Heads& heads, Index head_dim, Index layers);

// Visible (query, key) pairs of one row over all query heads of one layer.
double visible_pairs(const Layout& layout, const Heads& heads);

}  // namespace longlora
