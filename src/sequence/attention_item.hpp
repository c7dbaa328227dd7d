#pragma once

#include "core/view.hpp"

namespace longlora {

// One rectangle or triangle of visible (query, key) pairs, the only shapes that kernels know
// (mathematics.md, section 1). Rows are local: queries count from the shard's first token, keys
// from the first row of the K/V block that the item is applied to.
struct AttentionItem {
    Range heads;     // query heads
    Range queries;   // rows of q
    Range keys;      // rows of k and v
    bool is_causal;  // triangle: query row i of the item sees keys 0 .. i; else every key

    constexpr bool operator==(const AttentionItem&) const = default;
};

}  // namespace longlora
