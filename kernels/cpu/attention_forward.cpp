#define HWY_TARGET_INCLUDE "kernels/cpu/attention_forward.cpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/attention.hpp"
#include "kernels/cpu/attention_tile.hpp"
#include "kernels/cpu/scratch.hpp"

HWY_BEFORE_NAMESPACE();
namespace longlora::HWY_NAMESPACE {

// A block of query rows keeps its running softmax while the keys pass by, a tile at a time; the
// work on a tile is done for 48 rows at once, whose scores stay in the cache.
struct ForwardShape {
    static constexpr Index keys = 192;
    static constexpr Index rows = 48;

    Index depth;  // D
    Index width;  // D rounded up to whole tiles
};

struct ForwardScratch {
    ForwardScratch(const ForwardShape& shape, Index rows)
        : memory((2 * shape.width + lanes + 2) * rows + ForwardShape::keys * 2 * shape.width +
                 ForwardShape::rows * ForwardShape::keys),
          q(memory.take(rows * shape.width)),
          out(memory.take(rows * shape.width)),
          sums(memory.take(rows * lanes)),
          maximum(memory.take(rows)),
          rescale(memory.take(rows)),
          k_panels(memory.take(ForwardShape::keys * shape.width)),
          v(memory.take(ForwardShape::keys * shape.width)),
          scores(memory.take(ForwardShape::rows * ForwardShape::keys)) {}

    ThreadScratch<ScratchUse::attention> memory;
    float* q;         // [rows][width], times log2(e) / sqrt(D)
    float* out;       // [rows][width], not yet divided by the sum
    float* sums;      // [rows][lanes], of 2^(score - maximum)
    float* maximum;   // [rows]
    float* rescale;   // [rows], what the move of the maximum does to earlier sums
    float* k_panels;  // [keys / 16][D][16]
    float* v;         // [keys][width]
    float* scores;    // [48][keys]
};

// Continues from the rows' (out, lse): maximum = lse and sum = 1 stand for all keys seen so far.
void load_state(const AttentionForward<Cpu>& op, Index head, Range queries,
                const ForwardShape& shape, const ForwardScratch& scratch) {
    const Index padded = round_up(queries.size(), ForwardShape::rows);
    const Range columns{head * shape.depth, (head + 1) * shape.depth};
    pack_rows(op.out.rows(queries).columns(columns), padded, shape.width, 1.0F, scratch.out);
    std::fill(scratch.sums, scratch.sums + padded * lanes, 0.0F);
    for (Index i = 0; i < queries.size(); ++i) {
        const float lse = op.lse(head, queries.begin + i);
        scratch.maximum[i] = lse;
        if (lse > -std::numeric_limits<float>::infinity()) {
            scratch.sums[i * lanes] = 1;
        } else {
            std::fill_n(scratch.out + i * shape.width, shape.width, 0.0F);
        }
    }
    std::fill(scratch.rescale, scratch.rescale + padded, 1.0F);
}

void store_state(const AttentionForward<Cpu>& op, Index head, Range queries,
                 const ForwardShape& shape, const ForwardScratch& scratch) {
    for (Index i = 0; i < queries.size(); ++i) {
        const float sum = sum_of_lanes(hn::LoadU(tag, scratch.sums + i * lanes));
        const Vector factor = hn::Set(tag, 1.0F / sum);
        op.lse(head, queries.begin + i) = scratch.maximum[i] + std::log2(sum);
        const float* from = scratch.out + i * shape.width;
        float* to = op.out.row(queries.begin + i) + head * shape.depth;
        for_vectors(shape.depth, [&](Index d, Index count) HWY_ATTR {
            store(hn::Mul(load(from + d, count), factor), to + d, count);
        });
    }
}

HWY_INLINE float largest_score(const float* scores, Index visible, float top) {
    Vector largest = hn::Set(tag, top);
    Index j = 0;
    for (; j + lanes <= visible; j += lanes) {
        largest = hn::Max(largest, hn::LoadU(tag, scores + j));
    }
    float result = max_of_lanes(largest);
    for (; j < visible; ++j) {
        result = std::max(result, scores[j]);
    }
    return result;
}

// One row of scores becomes 2^(score - maximum), zero from `visible` to `end`; returns the factor
// for what was summed under the old maximum.
float softmax_row(float* scores, Index visible, Index end, float* maximum, float* sums) {
    if (visible == 0) {
        std::fill(scores, scores + end, 0.0F);
        return 1;
    }
    const float top = largest_score(scores, visible, *maximum);
    const float rescale = top == *maximum ? 1.0F : std::exp2(*maximum - top);
    *maximum = top;
    const Vector offset = hn::Set(tag, top);
    Vector sum = hn::Mul(hn::LoadU(tag, sums), hn::Set(tag, rescale));
    Index j = 0;
    for (; j + lanes <= visible; j += lanes) {
        const Vector p = exp2(hn::Sub(hn::LoadU(tag, scores + j), offset));
        sum = hn::Add(sum, p);
        hn::StoreU(p, tag, scores + j);
    }
    if (j < visible) {  // scores go on to a multiple of 16: the whole vector may be read
        const Vector p =
            first_lanes(visible - j, exp2(hn::Sub(hn::LoadU(tag, scores + j), offset)));
        sum = hn::Add(sum, p);
        hn::StoreU(p, tag, scores + j);
        j += lanes;
    }
    for (; j < end; j += lanes) {
        hn::StoreU(hn::Zero(tag), tag, scores + j);
    }
    hn::StoreU(sum, tag, sums);
    return rescale;
}

// Rows [first, first + rows) of the block against the tile of keys that is packed.
void forward_tile(const ForwardScratch& scratch, const ForwardShape& shape, Range rows,
                  const Visible& visible) {
    const float* q = scratch.q + rows.begin * shape.width;
    float* rescale = scratch.rescale + rows.begin;
    constexpr Index pitch = ForwardShape::keys;
    const Index last = rows.size() - 1;
    dot_products({q, rows.size(), shape.depth, shape.width}, scratch.k_panels, visible,
                 {scratch.scores, pitch});
    for (Index i = 0; i <= last; ++i) {
        const Index strip_last = std::min(i / tile_rows * tile_rows + tile_rows - 1, last);
        const Index row = rows.begin + i;
        rescale[i] = softmax_row(scratch.scores + i * pitch, visible(i), visible(strip_last),
                                 scratch.maximum + row, scratch.sums + row * lanes);
    }
    for (Index d = 0; d < shape.width; d += tile_columns) {
        for (Index i = 0; i <= last; i += tile_rows) {
            float* out = scratch.out + (rows.begin + i) * shape.width + d;
            tile<Update::rescale>(visible(std::min(i + tile_rows - 1, last)),
                                  {scratch.scores + i * pitch, pitch, 1},
                                  {scratch.v + d, shape.width}, {out, shape.width}, rescale + i);
        }
    }
}

// One item for some of its query rows and one head.
void forward_item(const AttentionForward<Cpu>& op, const AttentionItem& item, Index head,
                  Range queries) {
    const ForwardShape shape{op.head_dim, round_up(op.head_dim, tile_columns)};
    const ForwardScratch scratch(shape, round_up(queries.size(), ForwardShape::rows));
    const Index kv_head = head / op.queries_per_kv - op.block.first_head;
    const Range kv_columns{kv_head * shape.depth, (kv_head + 1) * shape.depth};
    const Range q_columns{head * shape.depth, (head + 1) * shape.depth};
    const Index first_row = queries.begin - item.queries.begin;
    const Index end =
        item.is_causal ? std::min(item.keys.size(), first_row + queries.size()) : item.keys.size();

    pack_rows(op.q.rows(queries).columns(q_columns), round_up(queries.size(), ForwardShape::rows),
              shape.width, log2_e / std::sqrt(static_cast<float>(shape.depth)), scratch.q);
    load_state(op, head, queries, shape, scratch);
    for (Index key = 0; key < end; key += ForwardShape::keys) {
        const Index keys = std::min(ForwardShape::keys, end - key);
        const Range range{item.keys.begin + key, item.keys.begin + key + keys};
        pack_panels(op.block.k.rows(range).columns(kv_columns), scratch.k_panels);
        pack_rows(op.block.v.rows(range).columns(kv_columns), keys, shape.width, 1.0F, scratch.v);
        for (Index row = 0; row < queries.size(); row += ForwardShape::rows) {
            const Range rows{row, std::min(row + ForwardShape::rows, queries.size())};
            const Visible visible{item.is_causal, first_row + row - key, keys};
            if (visible(rows.size() - 1) > 0) {
                forward_tile(scratch, shape, rows, visible);
            }
        }
    }
    store_state(op, head, queries, shape, scratch);
}

// All items, in the order of the list, for query rows that lie inside or outside each as a whole.
// Each item is a continuation of its own, as if it came in its own call: the bits of the result do
// not depend on how the items are dealt to calls.
void attention_forward_rows(const AttentionForward<Cpu>& op, Index head, Range queries) {
    for (const AttentionItem& item : op.items) {
        const bool has_head = head >= item.heads.begin && head < item.heads.end;
        const bool has_rows =
            queries.begin >= item.queries.begin && queries.end <= item.queries.end;
        if (has_head && has_rows && !item.keys.empty()) {
            forward_item(op, item, head, queries);
        }
    }
}

}  // namespace longlora::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace longlora {
namespace {

HWY_EXPORT(attention_forward_rows);

// Blocks of query rows that no item cuts: packing a tile of keys is shared by a whole block.
std::vector<Range> query_blocks(std::span<const AttentionItem> items, Index most_rows) {
    std::vector<Index> cuts;
    for (const AttentionItem& item : items) {
        cuts.push_back(item.queries.begin);
        cuts.push_back(item.queries.end);
    }
    std::sort(cuts.begin(), cuts.end());
    std::vector<Range> blocks;
    for (std::size_t i = 1; i < cuts.size(); ++i) {
        for (Index row = cuts[i - 1]; row < cuts[i]; row += most_rows) {
            blocks.push_back({row, std::min(row + most_rows, cuts[i])});
        }
    }
    return blocks;
}

}  // namespace

void attention_forward(const Stream<Cpu>& stream, const AttentionForward<Cpu>& op) {
    const std::vector<Range> blocks = query_blocks(op.items, 1024);
    const Index heads = op.lse.rows();
    const auto count = static_cast<Index>(blocks.size());
    parallel_for(stream, heads * count, [&](Index i) {
        const Range queries = blocks[static_cast<std::size_t>(i % count)];
        HWY_DYNAMIC_DISPATCH(attention_forward_rows)(op, i / count, queries);
    });
}

}  // namespace longlora
#endif  // HWY_ONCE
