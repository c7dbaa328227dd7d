#include "kernels/cuda/attention_passes.hpp"
#include "kernels/cuda/attention_tile.cuh"

// A block is one warp, for one row. Of the rows that this one is held against it takes 32 at a time: a
// lane has first one of those, for products along the head, then columns of the head, for the sums.
namespace longlora {
namespace {

template <class S>
using ConstRows = View<CudaDevice<S>, const S, 2>;

// Which row of which tile, in which of the tile's heads.
struct RowPlace {
    AttentionTile tile;
    int row;
    int head;

    __device__ explicit RowPlace(const AttentionWork& work) {
        const int block = static_cast<int>(blockIdx.x);
        constexpr int rows = attention_tile_rows;
        row = block % rows;
        head = block / rows % work.heads;
        tile = work.tiles[block / rows / work.heads];
    }
};

__device__ inline int lane_index() { return static_cast<int>(threadIdx.x); }

__device__ inline float sum_of_warp(float x) {
    return reduce_warp(x, [](float a, float b) { return a + b; });
}
__device__ inline float max_of_warp(float x) {
    return reduce_warp(x, [](float a, float b) { return fmaxf(a, b); });
}

template <class S>
__device__ void load_row(const S* from, int depth, float* to) {
    for (int d = lane_index(); d < depth; d += warp_threads) {
        to[d] = load(from + d);
    }
}

__device__ inline void clear_row(float* x, int depth) {
    for (int d = lane_index(); d < depth; d += warp_threads) {
        x[d] = 0;
    }
}

template <class S>
__device__ float dot(const float* a, const S* b, int depth) {
    float sum = 0;
    for (int d = 0; d < depth; ++d) {
        sum = fmaf(a[d], load(b + d), sum);
    }
    return sum;
}

// x = factor x + weights' rows, of at most 32 rows from `first` on
template <class S>
__device__ void add_rows(float* x, float factor, const float* weights, ConstRows<S> rows,
                         int first) {
    const int count = std::min(first + warp_threads, static_cast<int>(rows.rows())) - first;
    for (int d = lane_index(); d < rows.columns(); d += warp_threads) {
        float sum = factor * x[d];
        for (int i = 0; i < count; ++i) {
            sum = fmaf(weights[i], load(rows.row(first + i) + d), sum);
        }
        x[d] = sum;
    }
}

// to += factor x, or to = factor x
__device__ inline void write_row(const float* x, float factor, int depth, float* to,
                                 bool overwrites) {
    for (int d = lane_index(); d < depth; d += warp_threads) {
        to[d] = with_addend(overwrites ? 0.0F : to[d], factor, x[d]);
    }
}

template <class S>
__global__ void __launch_bounds__(warp_threads)
    attend_simply_kernel(AttentionForward<CudaDevice<S>> op, AttentionWork work, float scale) {
    const RowPlace place(work);
    const AttentionTile& tile = place.tile;
    if (place.row >= tile.queries || place.head >= tile.heads) {
        return;
    }
    const int depth = static_cast<int>(op.head_dim);
    auto* const q = reinterpret_cast<float*>(machine::dynamic_shared());
    float* const sums = q + depth;
    float* const p = sums + depth;

    const int lane = lane_index();
    const Index query = Index{tile.first_query} + place.row;
    const int head = tile.first_head + place.head;
    const int visible = std::min(tile.keys, tile.diagonal + place.row);
    const Index kv_column = (head / op.queries_per_kv - op.block.first_head) * depth;
    const auto k = part_of(op.block.k, tile.first_key, visible, kv_column, depth);
    const auto v = part_of(op.block.v, tile.first_key, visible, kv_column, depth);
    S* const out = op.out.row(query) + Index{head} * depth;
    float maximum = op.lse.row(head)[query];
    float sum = 0;
    load_row(op.q.row(query) + Index{head} * depth, depth, q);
    if (maximum == -INFINITY) {
        clear_row(sums, depth);
    } else {
        load_row(out, depth, sums);
        sum = lane == 0 ? 1.0F : 0.0F;
    }
    __syncthreads();
    for (int first = 0; first < visible; first += warp_threads) {
        const int key = first + lane;
        const float s = key < visible ? scale * dot(q, k.row(key), depth) : -INFINITY;
        const float top = fmaxf(maximum, max_of_warp(s));
        const float rescale = exp2f(maximum - top);
        p[lane] = exp2f(s - top);
        sum = sum * rescale + p[lane];
        maximum = top;
        __syncthreads();
        add_rows<S>(sums, rescale, p, v, first);
        __syncthreads();
    }
    sum = sum_of_warp(sum);
    for (int d = lane; d < depth; d += warp_threads) {
        store(out + d, sum == 0 ? 0 : sums[d] / sum);
    }
    if (lane == 0) {
        op.lse.row(head)[query] = maximum + log2f(sum);
    }
}

// dQ of a query row.
template <class S>
__global__ void __launch_bounds__(warp_threads)
    query_gradients_simply_kernel(AttentionBackward<CudaDevice<S>> op, AttentionWork work,
                                  float scale) {
    const RowPlace place(work);
    const AttentionTile& tile = place.tile;
    if (place.row >= tile.queries || place.head >= tile.heads) {
        return;
    }
    const int depth = static_cast<int>(op.head_dim);
    auto* const q = reinterpret_cast<float*>(machine::dynamic_shared());
    float* const d_out = q + depth;
    float* const sums = d_out + depth;
    float* const d_s = sums + depth;

    const int lane = lane_index();
    const Index query = Index{tile.first_query} + place.row;
    const int head = tile.first_head + place.head;
    const int visible = std::min(tile.keys, tile.diagonal + place.row);
    const Index kv_column = (head / op.queries_per_kv - op.block.first_head) * depth;
    const auto k = part_of(op.block.k, tile.first_key, visible, kv_column, depth);
    const auto v = part_of(op.block.v, tile.first_key, visible, kv_column, depth);
    const float lse = op.lse.row(head)[query];
    const float delta = op.delta.row(head)[query];
    load_row(op.q.row(query) + Index{head} * depth, depth, q);
    load_row(op.d_out.row(query) + Index{head} * depth, depth, d_out);
    clear_row(sums, depth);
    __syncthreads();
    for (int first = 0; first < visible; first += warp_threads) {
        const int key = first + lane;
        if (key < visible) {
            const float p = exp2f(scale * log2_e * dot(q, k.row(key), depth) - lse);
            d_s[lane] = p * (dot(d_out, v.row(key), depth) - delta);
        }
        __syncthreads();
        add_rows<S>(sums, 1.0F, d_s, k, first);
        __syncthreads();
    }
    write_row(sums, scale, depth, op.d_q.row(query) + Index{head} * depth, op.overwrites);
}

// dK and dV of a key row, over the query heads that read its head.
template <class S>
__global__ void __launch_bounds__(warp_threads)
    key_gradients_simply_kernel(AttentionBackward<CudaDevice<S>> op, AttentionWork work,
                                float scale) {
    const RowPlace place(work);
    const AttentionTile& tile = place.tile;
    const Index kv_head = tile.first_head / op.queries_per_kv + place.head;
    const Index first_head = std::max(Index{tile.first_head}, kv_head * op.queries_per_kv);
    const Index end_head =
        std::min(Index{tile.first_head} + tile.heads, (kv_head + 1) * op.queries_per_kv);
    if (place.row >= tile.keys || first_head >= end_head) {
        return;
    }
    const int depth = static_cast<int>(op.head_dim);
    auto* const k = reinterpret_cast<float*>(machine::dynamic_shared());
    float* const v = k + depth;
    float* const d_k = v + depth;
    float* const d_v = d_k + depth;
    float* const p = d_v + depth;
    float* const d_s = p + warp_threads;

    const int lane = lane_index();
    const Index key = Index{tile.first_key} + place.row;
    const Index kv_column = (kv_head - op.block.first_head) * depth;
    const int unseen = std::max(0, place.row + 1 - tile.diagonal);  // queries that are too early
    const int queries = tile.queries - unseen;
    load_row(op.block.k.row(key) + kv_column, depth, k);
    load_row(op.block.v.row(key) + kv_column, depth, v);
    clear_row(d_k, depth);
    clear_row(d_v, depth);
    __syncthreads();
    for (Index head = first_head; head < end_head; ++head) {
        const Index first_query = Index{tile.first_query} + unseen;
        const auto q = part_of(op.q, first_query, queries, head * depth, depth);
        const auto d_out = part_of(op.d_out, first_query, queries, head * depth, depth);
        const float* const lse = op.lse.row(head) + first_query;
        const float* const delta = op.delta.row(head) + first_query;
        for (int first = 0; first < queries; first += warp_threads) {
            const int query = first + lane;
            if (query < queries) {
                p[lane] = exp2f(scale * log2_e * dot(k, q.row(query), depth) - lse[query]);
                d_s[lane] = p[lane] * (dot(v, d_out.row(query), depth) - delta[query]);
            }
            __syncthreads();
            add_rows<S>(d_v, 1.0F, p, d_out, first);
            add_rows<S>(d_k, 1.0F, d_s, q, first);
            __syncthreads();
        }
    }
    write_row(d_k, scale, depth, op.d_k.row(key) + kv_column, op.overwrites);
    write_row(d_v, 1.0F, depth, op.d_v.row(key) + kv_column, op.overwrites);
}

// `rows` rows of a head in float, and two numbers for each lane.
Grid grid_of_rows(const AttentionWork& work, Index head_dim, Index rows) {
    const auto floats = static_cast<std::size_t>(rows * head_dim + 2 * warp_threads);
    return {dim3(static_cast<unsigned>(work.count) * static_cast<unsigned>(work.heads) *
                 unsigned{attention_tile_rows}),
            dim3(warp_threads), floats * sizeof(float)};
}

}  // namespace

template <class S>
void attend_simply(const Stream<CudaDevice<S>>& stream, const AttentionForward<CudaDevice<S>>& op,
                   const AttentionWork& work) {
    launch(stream, attend_simply_kernel<S>, grid_of_rows(work, op.head_dim, 2), op, work,
           score_scale(op.head_dim) * log2_e);
}

template <class S>
void add_query_gradients_simply(const Stream<CudaDevice<S>>& stream,
                                const AttentionBackward<CudaDevice<S>>& op,
                                const AttentionWork& work) {
    launch(stream, query_gradients_simply_kernel<S>, grid_of_rows(work, op.head_dim, 3), op, work,
           score_scale(op.head_dim));
}

template <class S>
void add_key_gradients_simply(const Stream<CudaDevice<S>>& stream,
                              const AttentionBackward<CudaDevice<S>>& op,
                              const AttentionWork& work) {
    launch(stream, key_gradients_simply_kernel<S>, grid_of_rows(work, op.head_dim, 4), op, work,
           score_scale(op.head_dim));
}

#define LONGLORA_SIMPLE_ATTENTION(S)                                                           \
    template void attend_simply(const Stream<CudaDevice<S>>&,                                  \
                                const AttentionForward<CudaDevice<S>>&, const AttentionWork&); \
    template void add_query_gradients_simply(const Stream<CudaDevice<S>>&,                     \
                                             const AttentionBackward<CudaDevice<S>>&,          \
                                             const AttentionWork&);                            \
    template void add_key_gradients_simply(const Stream<CudaDevice<S>>&,                       \
                                           const AttentionBackward<CudaDevice<S>>&,            \
                                           const AttentionWork&);
LONGLORA_SIMPLE_ATTENTION(BFloat16)
LONGLORA_SIMPLE_ATTENTION(float)
#undef LONGLORA_SIMPLE_ATTENTION

}  // namespace longlora
