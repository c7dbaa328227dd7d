#define HWY_TARGET_INCLUDE "kernels/cpu/attention_backward.cpp"

#include <algorithm>
#include <cassert>
#include <cmath>

#include "kernels/attention.hpp"
#include "kernels/cpu/attention_tile.hpp"
#include "kernels/cpu/scratch.hpp"

HWY_BEFORE_NAMESPACE();
namespace longlora::HWY_NAMESPACE {

// Keys in tiles of 96 outside, queries in tiles of 96 inside: P and dS of a tile, 36 KB each, stay
// in the cache for the five products. A multiple of both 6 and 16.
constexpr Index backward_tile_size = 96;

struct BackwardScratch {
    BackwardScratch(Index head_dim, Index rows)
        : depth(head_dim),
          width(round_up(head_dim, tile_columns)),
          memory((3 * width + 2) * rows + 5 * backward_tile_size * width +
                 2 * backward_tile_size * backward_tile_size),
          q(memory.take(rows * width)),
          d_out(memory.take(rows * width)),
          d_q(memory.take(rows * width)),
          lse(memory.take(rows)),
          delta(memory.take(rows)),
          k_panels(memory.take(backward_tile_size * width)),
          v_panels(memory.take(backward_tile_size * width)),
          k(memory.take(backward_tile_size * width)),
          d_k(memory.take(backward_tile_size * width)),
          d_v(memory.take(backward_tile_size * width)),
          p(memory.take(backward_tile_size * backward_tile_size)),
          d_s(memory.take(backward_tile_size * backward_tile_size)) {}

    Index depth;  // D
    Index width;  // D rounded up to whole tiles
    ThreadScratch<ScratchUse::attention> memory;
    float* q;         // [rows][width], times log2(e) / sqrt(D)
    float* d_out;     // [rows][width]
    float* d_q;       // [rows][width], without the factor 1 / sqrt(D)
    float* lse;       // [rows]
    float* delta;     // [rows]
    float* k_panels;  // [keys / 16][D][16]
    float* v_panels;  // [keys / 16][D][16]
    float* k;         // [keys][width]
    float* d_k;       // [keys][width], without the factor ln 2
    float* d_v;       // [keys][width]
    float* p;         // [96][96]
    float* d_s;       // [96][96], times sqrt(D)
};

// P = 2^(S - lse), dS = P (dP - delta) where visible, zero in the rest of the row.
void gradient_row(float* p, float* d_s, Index visible, float lse, float delta) {
    const Vector l = hn::Set(tag, lse);
    const Vector e = hn::Set(tag, delta);
    Index j = 0;
    for (; j + lanes <= visible; j += lanes) {
        const Vector x = exp2(hn::Sub(hn::LoadU(tag, p + j), l));
        hn::StoreU(x, tag, p + j);
        hn::StoreU(hn::Mul(x, hn::Sub(hn::LoadU(tag, d_s + j), e)), tag, d_s + j);
    }
    if (j < visible) {
        const Vector x = exp2(hn::Sub(hn::LoadU(tag, p + j), l));
        const Vector y = hn::Mul(x, hn::Sub(hn::LoadU(tag, d_s + j), e));
        hn::StoreU(first_lanes(visible - j, x), tag, p + j);
        hn::StoreU(first_lanes(visible - j, y), tag, d_s + j);
        j += lanes;
    }
    for (; j < backward_tile_size; j += lanes) {
        hn::StoreU(hn::Zero(tag), tag, p + j);
        hn::StoreU(hn::Zero(tag), tag, d_s + j);
    }
}

// dV += P' dO, dK += dS' q: 6 keys and 16 columns at a time, over the rows that see the first key.
void accumulate_keys(const BackwardScratch& scratch, Range rows, const Visible& visible) {
    constexpr Index pitch = backward_tile_size;
    const Index width = scratch.width;
    for (Index j = 0; j < visible.keys; j += tile_rows) {
        const Index first =
            visible.is_causal ? std::clamp<Index>(j - visible.offset, 0, rows.size()) : 0;
        const Index row = rows.begin + first;
        for (Index d = 0; d < width; d += tile_columns) {
            tile<Update::add>(rows.size() - first, {scratch.p + first * pitch + j, 1, pitch},
                              {scratch.d_out + row * width + d, width},
                              {scratch.d_v + j * width + d, width});
            tile<Update::add>(rows.size() - first, {scratch.d_s + first * pitch + j, 1, pitch},
                              {scratch.q + row * width + d, width},
                              {scratch.d_k + j * width + d, width});
        }
    }
}

// Rows `rows` of the chunk against the tile of keys that is packed.
void backward_tile(const BackwardScratch& scratch, Range rows, const Visible& visible) {
    constexpr Index pitch = backward_tile_size;
    const Index width = scratch.width;
    const Index count = rows.size();
    const Index first = rows.begin * width;
    dot_products({scratch.q + first, count, scratch.depth, width}, scratch.k_panels, visible,
                 {scratch.p, pitch});
    dot_products({scratch.d_out + first, count, scratch.depth, width}, scratch.v_panels, visible,
                 {scratch.d_s, pitch});
    for (Index i = 0; i < round_up(count, tile_rows); ++i) {
        gradient_row(scratch.p + i * pitch, scratch.d_s + i * pitch, i < count ? visible(i) : 0,
                     scratch.lse[rows.begin + i], scratch.delta[rows.begin + i]);
    }
    accumulate_keys(scratch, rows, visible);
    // dQ += dS K
    for (Index d = 0; d < width; d += tile_columns) {
        for (Index i = 0; i < count; i += tile_rows) {
            tile<Update::add>(visible(std::min(i + tile_rows - 1, count - 1)),
                              {scratch.d_s + i * pitch, pitch, 1}, {scratch.k + d, width},
                              {scratch.d_q + first + i * width + d, width});
        }
    }
}

void load_queries(const AttentionBackward<Cpu>& op, Index head, Range queries,
                  const BackwardScratch& scratch) {
    const Index padded = round_up(queries.size(), tile_rows);
    const Range columns{head * scratch.depth, (head + 1) * scratch.depth};
    pack_rows(op.q.rows(queries).columns(columns), padded, scratch.width,
              log2_e / std::sqrt(static_cast<float>(scratch.depth)), scratch.q);
    pack_rows(op.d_out.rows(queries).columns(columns), padded, scratch.width, 1.0F, scratch.d_out);
    std::fill(scratch.d_q, scratch.d_q + padded * scratch.width, 0.0F);
    std::copy_n(op.lse.row(head) + queries.begin, queries.size(), scratch.lse);
    std::copy_n(op.delta.row(head) + queries.begin, queries.size(), scratch.delta);
}

// to[r][d] += factor from[r][d]
void add_rows(const float* from, Index width, float factor, View<Cpu, float, 2> to) {
    for (Index r = 0; r < to.rows(); ++r, from += width) {
        float* row = to.row(r);
        for_vectors(to.columns(), [&](Index d, Index count) HWY_ATTR {
            const Vector sum =
                hn::MulAdd(load(from + d, count), hn::Set(tag, factor), load(row + d, count));
            store(sum, row + d, count);
        });
    }
}

void backward_chunk(const AttentionBackward<Cpu>& op, const AttentionItem& item, Index head,
                    Range queries, const BackwardScratch& scratch) {
    const Index depth = scratch.depth;
    const Index width = scratch.width;
    const Index kv_head = head / op.queries_per_kv - op.block.first_head;
    const Range kv_columns{kv_head * depth, (kv_head + 1) * depth};
    const Index first_row = queries.begin - item.queries.begin;
    const Index end =
        item.is_causal ? std::min(item.keys.size(), first_row + queries.size()) : item.keys.size();

    load_queries(op, head, queries, scratch);
    for (Index key = 0; key < end; key += backward_tile_size) {
        const Index keys = std::min(backward_tile_size, end - key);
        const Range range{item.keys.begin + key, item.keys.begin + key + keys};
        const auto k = op.block.k.rows(range).columns(kv_columns);
        pack_panels(k, scratch.k_panels);
        pack_panels(op.block.v.rows(range).columns(kv_columns), scratch.v_panels);
        pack_rows(k, keys, width, 1.0F, scratch.k);
        std::fill(scratch.d_k, scratch.d_k + backward_tile_size * width, 0.0F);
        std::fill(scratch.d_v, scratch.d_v + backward_tile_size * width, 0.0F);
        for (Index row = 0; row < queries.size(); row += backward_tile_size) {
            const Range rows{row, std::min(row + backward_tile_size, queries.size())};
            const Visible visible{item.is_causal, first_row + row - key, keys};
            if (visible(rows.size() - 1) > 0) {
                backward_tile(scratch, rows, visible);
            }
        }
        add_rows(scratch.d_k, width, ln_2, op.d_k.rows(range).columns(kv_columns));
        add_rows(scratch.d_v, width, 1.0F, op.d_v.rows(range).columns(kv_columns));
    }
    add_rows(scratch.d_q, width, 1.0F / std::sqrt(static_cast<float>(depth)),
             op.d_q.rows(queries).columns({head * depth, (head + 1) * depth}));
}

// One K/V head of the block: all items in the order of the list, for the query heads that read it.
// A chunk of query rows is packed once; while it lasts, tiles of keys are packed one by one.
void attention_backward_head(const AttentionBackward<Cpu>& op, Index kv_head) {
    constexpr Index chunk = 1024;
    const BackwardScratch scratch(op.head_dim, chunk);
    const Index first_head = (op.block.first_head + kv_head) * op.queries_per_kv;
    for (const AttentionItem& item : op.items) {
        const Index begin = std::max(item.heads.begin, first_head);
        const Index end = std::min(item.heads.end, first_head + op.queries_per_kv);
        for (Index head = begin; head < end; ++head) {
            for (Index row = item.queries.begin; row < item.queries.end; row += chunk) {
                const Range queries{row, std::min(row + chunk, item.queries.end)};
                backward_chunk(op, item, head, queries, scratch);
            }
        }
    }
}

}  // namespace longlora::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace longlora {
namespace {

HWY_EXPORT(attention_backward_head);

}  // namespace

void attention_backward(const Stream<Cpu>& stream, const AttentionBackward<Cpu>& op) {
    assert(op.block.k.columns() % op.head_dim == 0);
    // A thread has whole K/V heads: no two of them add to one place of dQ, dK or dV.
    parallel_for(stream, op.block.k.columns() / op.head_dim, [&](Index kv_head) {
        HWY_DYNAMIC_DISPATCH(attention_backward_head)(op, kv_head);
    });
}

}  // namespace longlora
#endif  // HWY_ONCE
