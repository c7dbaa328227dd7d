#include "kernels/cuda/hopper/attention_backward.cuh"

// dK and dV of 128 keys of one K/V head, which hold still; queries pass by, of each query head that reads
// the K/V head. A warpgroup has 64 keys as rows of S' = K Q' and dP' = V dO'.
namespace longlora::hopper {
namespace {

constexpr int stages = 3;
constexpr int step_queries = step_rows;

template <int depth>
struct KeyPassShared {
    using Step = HeadRows<step_queries, depth>;

    HeadRows<own_rows, depth> k;
    HeadRows<own_rows, depth> v;
    Step q[stages];
    Step d_out[stages];
    float negated_lse[stages][step_queries];
    float delta[stages][step_queries];
    StepBarriers<stages> steps;
    machine::Barrier own;
};

// What a block works on.
struct KeyPass {
    AttentionTile tile;
    int kv_head;
    int first_head;
    int end_head;
    int steps;  // of each head

    __device__ KeyPass(const AttentionWork& work, int queries_per_kv) {
        const BlockPlace place(work);
        tile = place.tile;
        kv_head = tile.first_head / queries_per_kv + place.head;
        first_head = std::max(tile.first_head, kv_head * queries_per_kv);
        end_head = std::min(tile.first_head + tile.heads, (kv_head + 1) * queries_per_kv);
        steps = (tile.queries + step_queries - 1) / step_queries;
    }
    __device__ int kv_column(const AttentionBackward<Cuda>& op, int depth) const {
        return (kv_head - static_cast<int>(op.block.first_head)) * depth;
    }
};

// By one thread.
template <int depth>
__device__ void fetch_rows(const BackwardMaps& maps, const KeyPass& pass, int kv_column_block,
                           KeyPassShared<depth>& shared) {
    constexpr int blocks = depth / block_columns;
    machine::arrive_expecting(&shared.own, 2 * TileShape<own_rows, depth>::bytes);
    machine::copy_box(shared.k.at, maps.k, pass.tile.first_key, kv_column_block, &shared.own);
    machine::copy_box(shared.v.at, maps.v, pass.tile.first_key, kv_column_block, &shared.own);
    Turn<stages> turn;
    for (int head = pass.first_head; head < pass.end_head; ++head) {
#pragma unroll 1
        for (int step = 0; step < pass.steps; ++step, turn.advance()) {
            shared.steps.wait_until_empty(turn);
            machine::Barrier* const full = &shared.steps.full[turn.stage];
            const int row = pass.tile.first_query + step * step_queries;
            machine::arrive_expecting(full, 2 * TileShape<step_queries, depth>::bytes);
            machine::copy_box(shared.q[turn.stage].at, maps.q, row, head * blocks, full);
            machine::copy_box(shared.d_out[turn.stage].at, maps.d_out, row, head * blocks, full);
        }
    }
}

// By one warp: what it reads of a step is under way while it waits for the stage.
template <int depth>
__device__ void fetch_statistics(const AttentionBackward<Cuda>& op, const KeyPass& pass,
                                 KeyPassShared<depth>& shared) {
    constexpr int each = step_queries / warp_threads;
    const int lane = static_cast<int>(threadIdx.x) % warp_threads;
    Turn<stages> turn;
    for (int head = pass.first_head; head < pass.end_head; ++head) {
        const float* lse = op.lse.row(head) + pass.tile.first_query + lane;
        const float* delta = op.delta.row(head) + pass.tile.first_query + lane;
#pragma unroll 1
        for (int left = pass.tile.queries - lane; left > -lane; left -= step_queries) {
            float negated[each];
            float deltas[each];
#pragma unroll
            for (int i = 0; i < each; ++i) {
                const bool is_there = i * warp_threads < left;
                negated[i] = is_there ? negated_lse(lse[i * warp_threads]) : -INFINITY;
                deltas[i] = is_there ? delta[i * warp_threads] : 0.0F;
            }
            shared.steps.wait_until_empty(turn);
#pragma unroll
            for (int i = 0; i < each; ++i) {
                shared.negated_lse[turn.stage][lane + i * warp_threads] = negated[i];
                shared.delta[turn.stage][lane + i * warp_threads] = deltas[i];
            }
            machine::arrive(&shared.steps.full[turn.stage]);
            turn.advance();
            lse += step_queries;
            delta += step_queries;
        }
    }
}

// Row: a key of the tile, column: a query, the first of which is the tile's `query`; -infinity for
// queries that do not see the key.
__device__ inline void hide_queries(Scores& s, int query, int diagonal, const OwnPlace& place) {
    const int first = place.row - diagonal - query + 1;  // that sees the thread's first row
#pragma unroll
    for (int i = 0; i < step_queries / 2; ++i) {
        if (i / 4 * 8 + place.column + i % 2 < first + i / 2 % 2 * 8) {
            s[i] = -INFINITY;
        }
    }
}

// s becomes P' = 2^(scale s - lse), a query a column.
__device__ inline void exponentiate_columns(Scores& s, float scale, const float* negated_lse,
                                            const OwnPlace& place) {
#pragma unroll
    for (int n = 0; n < step_queries / 8; ++n) {
        const auto of_columns =
            *reinterpret_cast<const Pack<float, 2>*>(negated_lse + 8 * n + place.column);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            s[4 * n + i] = machine::exp2_fast(fmaf(s[4 * n + i], scale, of_columns[i % 2]));
        }
    }
}

// d_p becomes dS' = P' (dP' - delta).
__device__ inline void differentiate_columns(const Scores& p, Scores& d_p, const float* delta,
                                             const OwnPlace& place) {
#pragma unroll
    for (int n = 0; n < step_queries / 8; ++n) {
        const auto of_columns =
            *reinterpret_cast<const Pack<float, 2>*>(delta + 8 * n + place.column);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            d_p[4 * n + i] = p[4 * n + i] * (d_p[4 * n + i] - of_columns[i % 2]);
        }
    }
}

// By a warpgroup: its rows of d_k / scale and d_v.
template <int depth>
__device__ void sum_steps(const KeyPass& pass, float scale, const OwnPlace& place,
                          KeyPassShared<depth>& shared, Gradient<depth>& d_k,
                          Gradient<depth>& d_v) {
    const machine::Operand k = shared.k.operand(place.first_row);
    const machine::Operand v = shared.v.operand(place.first_row);
    // Steps at the beginning of which no query sees any of the warpgroup's keys, if it has any.
    const int unseen = place.first_row < pass.tile.keys
                           ? std::max(0, place.first_row - pass.tile.diagonal + 1) / step_queries
                           : pass.steps;
    Turn<stages> turn;
    machine::wait(&shared.own, 0);
    for (int head = pass.first_head; head < pass.end_head; ++head) {
#pragma unroll 1
        for (int step = 0; step < pass.steps; ++step, turn.advance()) {
            shared.steps.wait_until_full(turn);
            if (step < unseen) {
                shared.steps.leave(turn);
                continue;
            }
            const auto& q = shared.q[turn.stage];
            const auto& d_out = shared.d_out[turn.stage];
            Scores s;
            Scores d_p;
            PackedScores packed_p;
            PackedScores packed_d_s;
            machine::fence_products();
            start_scores<depth>(s, k, q);
            start_scores<depth>(d_p, v, d_out);
            machine::wait_for_products<1>();
            machine::tie(s);
            const int query = step * step_queries;
            if (query + pass.tile.diagonal < place.first_row + group_rows) {
                hide_queries(s, query, pass.tile.diagonal, place);
            }
            exponentiate_columns(s, scale, shared.negated_lse[turn.stage], place);
            pack(s, packed_p);
            machine::fence_products();
            start_gradient<depth>(d_v, packed_p, d_out);
            machine::wait_for_products<1>();
            machine::tie(d_p);
            differentiate_columns(s, d_p, shared.delta[turn.stage], place);
            pack(d_p, packed_d_s);
            machine::fence_products();
            start_gradient<depth>(d_k, packed_d_s, q);
            machine::wait_for_products<0>();
            machine::tie(d_v);
            machine::tie(d_k);
            shared.steps.leave(turn);
        }
    }
}

template <int depth>
__global__ void __launch_bounds__(backward_threads, 1)
    key_gradients_kernel(const __grid_constant__ BackwardMaps maps, AttentionBackward<Cuda> op,
                         AttentionWork work, float scale) {
    auto& shared = *reinterpret_cast<KeyPassShared<depth>*>(machine::aligned_shared());
    if (threadIdx.x == 0) {
        shared.steps.init(1 + warp_threads);
        machine::init_barrier(&shared.own, 1);
        machine::publish_barriers();
    }
    __syncthreads();
    // Both sides find out for themselves what to do: nothing is kept across the change of registers.
    const int queries_per_kv = static_cast<int>(op.queries_per_kv);
    const int group = warpgroup();
    if (group == 0) {
        machine::keep_registers<24>();
        const KeyPass pass(work, queries_per_kv);
        if (threadIdx.x == 0 && pass.first_head < pass.end_head) {
            fetch_rows(maps, pass, pass.kv_column(op, depth) / block_columns, shared);
        } else if (threadIdx.x / warp_threads == 1) {
            fetch_statistics(op, pass, shared);
        }
    } else {
        machine::take_registers<240>();
        const KeyPass pass(work, queries_per_kv);
        if (pass.first_head < pass.end_head) {
            const OwnPlace place(group - 1);
            Gradient<depth> d_k = {};
            Gradient<depth> d_v = {};
            sum_steps(pass, scale * log2_e, place, shared, d_k, d_v);
            const AttentionTile& tile = pass.tile;
            const int column = pass.kv_column(op, depth);
            add_gradient<depth>(d_k, scale, place,
                                part_of(op.d_k, tile.first_key, tile.keys, column, depth));
            add_gradient<depth>(d_v, 1.0F, place,
                                part_of(op.d_v, tile.first_key, tile.keys, column, depth));
        }
    }
}

template <int depth>
void start(const Stream<Cuda>& stream, const AttentionBackward<Cuda>& op,
           const BackwardMaps& maps) {
    for_each_work(
        stream, key_tiles(op.items, op.queries_per_kv, own_rows), [&](const AttentionWork& work) {
            launch(stream, key_gradients_kernel<depth>, grid_of_blocks<KeyPassShared<depth>>(work),
                   maps, op, work, score_scale(depth));
        });
}

}  // namespace

bool add_key_gradients(const Stream<Cuda>& stream, const AttentionBackward<Cuda>& op) {
    BackwardMaps maps;
    if ((op.head_dim != 64 && op.head_dim != 128) || !has_aligned_gradients(op) ||
        !make_backward_maps(op, step_queries, own_rows, maps)) {
        return false;
    }
    (op.head_dim == 64 ? start<64> : start<128>)(stream, op, maps);
    return true;
}

}  // namespace longlora::hopper
