#include "kernels/cuda/attention_passes.hpp"
#include "kernels/cuda/attention_tile.cuh"

// Two passes, each of which forms S and dP anew: seven products instead of five, but every sum has one
// block of threads that forms it, in registers and in one order.
namespace longlora {
namespace {

constexpr int step_queries =
    32;                        // of the pass for dK and dV: two sums of 64 rows fill the registers
constexpr int step_keys = 64;  // of the pass for dQ

template <int depth>
using KeyPassTiles = SharedTiles<depth, 2, step_queries>;  // k and v; q and d_out pass by
template <int depth>
using QueryPassTiles = SharedTiles<depth, 2, step_keys>;  // q and d_out; k and v pass by

constexpr int statistics = 2 * step_queries;  // of a step: lse and delta of each query
constexpr int statistics_bytes = 2 * statistics * 4;

// A row for a key, a column for a query, the first of which is the tile's `query`: -infinity for
// queries that do not see the key. Those that are not there are rows of zeros, which add nothing.
__device__ inline void hide_queries(Strip<step_queries>& s, const AttentionTile& tile, int query,
                                    const LanePlace& lane) {
    if (query + tile.diagonal >= tile.keys) {
        return;  // each query sees all
    }
    const int first = lane.row - tile.diagonal - query + 1;
#pragma unroll
    for (int n = 0; n < step_queries / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if (8 * n + lane.column + i % 2 < first + i / 2 * 8) {
                s.at[n][i] = -INFINITY;
            }
        }
    }
}

// s becomes P' = 2^(scale s - lse) and d_p becomes dS' = P' (dP' - delta), a query a column.
__device__ inline void differentiate_columns(Strip<step_queries>& s, Strip<step_queries>& d_p,
                                             float scale, const float* of_queries,
                                             const LanePlace& lane) {
#pragma unroll
    for (int n = 0; n < step_queries / 8; ++n) {
        const float* const at = of_queries + 8 * n + lane.column;
        const auto lse = *reinterpret_cast<const Pack<float, 2>*>(at);
        const auto delta = *reinterpret_cast<const Pack<float, 2>*>(at + step_queries);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            s.at[n][i] = machine::exp2_fast(fmaf(s.at[n][i], scale, -lse[i % 2]));
            d_p.at[n][i] = s.at[n][i] * (d_p.at[n][i] - delta[i % 2]);
        }
    }
}

// The steps of a pass for dK and dV: all queries of the tile, for each query head that reads the K/V head.
struct QuerySteps {
    int head;
    int query = 0;  // of the tile, the step's first
    int end_head;
    int queries;

    __device__ QuerySteps(const AttentionTile& tile, int kv_head, int queries_per_kv)
        : head(std::max<int>(tile.first_head, kv_head * queries_per_kv)),
          end_head(std::min(tile.first_head + tile.heads, (kv_head + 1) * queries_per_kv)),
          queries(tile.queries) {}

    __device__ bool is_over() const { return head >= end_head; }
    __device__ void advance() {
        query += step_queries;
        if (query >= queries) {
            query = 0;
            ++head;
        }
    }
};

// A block for 64 keys of one K/V head, a step for 32 queries of one of the heads that read it.
template <int depth>
__global__ void __launch_bounds__(attention_threads, 2)
    attention_key_gradients_kernel(AttentionBackward<Cuda> op, AttentionWork work, float scale) {
    const int block = static_cast<int>(blockIdx.x);
    const AttentionTile tile = work.tiles[block / work.heads];
    const int queries_per_kv = static_cast<int>(op.queries_per_kv);
    const int kv_head = tile.first_head / queries_per_kv + block % work.heads;
    QuerySteps now(tile, kv_head, queries_per_kv);
    if (now.is_over()) {
        return;
    }
    const KeyPassTiles<depth> shared;
    const auto k = shared.own(0);
    const auto v = shared.own(1);
    const Index kv_column = (kv_head - op.block.first_head) * depth;
    copy_rows<attention_tile_rows>(
        k, part_of(op.block.k, tile.first_key, tile.keys, kv_column, depth));
    copy_rows<attention_tile_rows>(
        v, part_of(op.block.v, tile.first_key, tile.keys, kv_column, depth));
    const auto start = [&](int step, const QuerySteps& at) {
        const int queries = std::min(at.query + step_queries, at.queries) - at.query;
        const Index row = Index{tile.first_query} + at.query;
        start_step(shared, step, part_of(op.q, row, queries, at.head * depth, depth),
                   part_of(op.d_out, row, queries, at.head * depth, depth));
    };
    // The thread's one of a step's statistics.
    const int thread = static_cast<int>(threadIdx.x);
    const auto load_statistic = [&](const QuerySteps& at) {
        const int query = at.query + thread % step_queries;
        if (thread >= statistics || query >= at.queries) {
            return 0.0F;
        }
        const float* from = thread < step_queries ? op.lse.row(at.head) : op.delta.row(at.head);
        return from[Index{tile.first_query} + query];
    };
    const auto statistics_of = [&](int step) {
        return reinterpret_cast<float*>(shared.end()) + step % 2 * statistics;
    };
    start(0, now);
    if (thread < statistics) {
        statistics_of(0)[thread] = load_statistic(now);
    }

    const LanePlace lane;
    Strip<depth> d_k;
    Strip<depth> d_v;
    for (int step = 0; !now.is_over(); ++step) {
        QuerySteps next = now;
        next.advance();
        machine::wait_for_copies<0>();
        __syncthreads();  // the step is there, and nobody reads the one before any more
        float statistic = 0;
        if (!next.is_over()) {
            start(step + 1, next);
            statistic = load_statistic(next);  // arrives while this step is worked on
        }
        auto s = multiply_rows<step_queries>(k, shared.first(step));
        hide_queries(s, tile, now.query, lane);
        auto d_s = multiply_rows<step_queries>(v, shared.second(step));
        differentiate_columns(s, d_s, scale * log2_e, statistics_of(step), lane);
        multiply_add(d_v, s, shared.second(step));
        multiply_add(d_k, d_s, shared.first(step));
        if (thread < statistics) {
            statistics_of(step + 1)[thread] = statistic;
        }
        now = next;
    }
    write_strip(d_k, scale, lane, part_of(op.d_k, tile.first_key, tile.keys, kv_column, depth),
                op.overwrites);
    write_strip(d_v, 1.0F, lane, part_of(op.d_v, tile.first_key, tile.keys, kv_column, depth),
                op.overwrites);
}

// d_p becomes dS = P (dP - delta) with P = 2^(scale s - lse), a query a row.
__device__ inline void differentiate_rows(const Strip<step_keys>& s, Strip<step_keys>& d_p,
                                          float scale, const float (&lse)[2],
                                          const float (&delta)[2]) {
#pragma unroll
    for (int n = 0; n < step_keys / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float p = machine::exp2_fast(fmaf(s.at[n][i], scale, -lse[i / 2]));
            d_p.at[n][i] = p * (d_p.at[n][i] - delta[i / 2]);
        }
    }
}

// A block for 64 queries of one head, a step for 64 keys.
template <int depth>
__global__ void __launch_bounds__(attention_threads, 2)
    attention_query_gradients_kernel(AttentionBackward<Cuda> op, AttentionWork work, float scale) {
    const int block = static_cast<int>(blockIdx.x);
    const AttentionTile tile = work.tiles[block / work.heads];
    const int head = tile.first_head + block % work.heads;
    if (head >= tile.first_head + tile.heads) {
        return;
    }
    const QueryPassTiles<depth> shared;
    const auto q = shared.own(0);
    const auto d_out = shared.own(1);
    copy_rows<attention_tile_rows>(
        q, part_of(op.q, tile.first_query, tile.queries, head * depth, depth));
    copy_rows<attention_tile_rows>(
        d_out, part_of(op.d_out, tile.first_query, tile.queries, head * depth, depth));
    const Index kv_column = (head / op.queries_per_kv - op.block.first_head) * depth;
    const auto k = part_of(op.block.k, tile.first_key, tile.keys, kv_column, depth);
    const auto v = part_of(op.block.v, tile.first_key, tile.keys, kv_column, depth);
    const auto start = [&](int step) {
        const int key = step * step_keys;
        const Range keys{key, std::min(key + step_keys, tile.keys)};
        start_step(shared, step, k.rows(keys), v.rows(keys));
    };
    start(0);

    const LanePlace lane;
    float lse[2] = {0, 0};
    float delta[2] = {0, 0};
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        if (lane.row + 8 * r < tile.queries) {
            const Index query = Index{tile.first_query} + lane.row + 8 * r;
            lse[r] = op.lse.row(head)[query];
            delta[r] = op.delta.row(head)[query];
        }
    }
    Strip<depth> d_q;
    const int steps = (tile.keys + step_keys - 1) / step_keys;
    for (int step = 0; step < steps; ++step) {
        machine::wait_for_copies<0>();
        __syncthreads();  // the step is there, and nobody reads the one before any more
        if (step + 1 < steps) {
            start(step + 1);
        }
        auto s = multiply_rows<step_keys>(q, shared.first(step));
        hide_keys(s, tile, step * step_keys, lane);
        auto d_s = multiply_rows<step_keys>(d_out, shared.second(step));
        differentiate_rows(s, d_s, scale * log2_e, lse, delta);
        multiply_add(d_q, d_s, shared.first(step));
    }
    write_strip(d_q, scale, lane,
                part_of(op.d_q, tile.first_query, tile.queries, head * depth, depth),
                op.overwrites);
}

bool are_aligned(const AttentionBackward<Cuda>& op) {
    constexpr std::size_t bytes = 16;
    constexpr std::size_t gradient_bytes = alignof(Pack<float, 2>);
    return is_aligned(op.q, bytes) && is_aligned(op.block.k, bytes) &&
           is_aligned(op.block.v, bytes) && is_aligned(op.d_out, bytes) &&
           is_aligned(op.d_q, gradient_bytes) && is_aligned(op.d_k, gradient_bytes) &&
           is_aligned(op.d_v, gradient_bytes);
}

}  // namespace

bool add_key_gradients_by_tensor_cores(const Stream<Cuda>& stream,
                                       const AttentionBackward<Cuda>& op,
                                       const AttentionWork& work) {
    return are_aligned(op) && with_depth(op.head_dim, [&](auto constant) {
               constexpr int depth = decltype(constant)::value;
               launch(stream, attention_key_gradients_kernel<depth>,
                      grid_for(work, KeyPassTiles<depth>::bytes + statistics_bytes), op, work,
                      score_scale(depth));
           });
}

bool add_query_gradients_by_tensor_cores(const Stream<Cuda>& stream,
                                         const AttentionBackward<Cuda>& op,
                                         const AttentionWork& work) {
    return are_aligned(op) && with_depth(op.head_dim, [&](auto constant) {
               constexpr int depth = decltype(constant)::value;
               launch(stream, attention_query_gradients_kernel<depth>,
                      grid_for(work, QueryPassTiles<depth>::bytes), op, work, score_scale(depth));
           });
}

}  // namespace longlora
