#include "kernels/cuda/hopper/attention_backward.cuh"

// dK and dV of 128 keys of one K/V head, which hold still; queries pass by, of each query head that reads
// the K/V head. A warpgroup has 64 keys as rows of S' = K Q' and dP' = V dO'.
namespace longlora::hopper {
namespace {

constexpr int stages = 3;
constexpr int own_stages = 2;  // the next job's rows arrive while this one is worked on
constexpr int step_queries = step_rows;

// A job, as all warps of the block see it.
struct KeyPass {
    AttentionTile tile;
    int kv_head;
    int first_head;
    int end_head;  // none: there is no job left
    int steps;     // of each head

    __device__ bool is_none() const { return first_head >= end_head; }
};

__device__ inline KeyPass make_pass(const BackwardJobs& jobs, int job, int queries_per_kv) {
    const AttentionTile& tile = jobs.tile(job);
    const int kv_head = tile.first_head / queries_per_kv + jobs.head(job);
    return {tile, kv_head, std::max<int>(tile.first_head, kv_head * queries_per_kv),
            std::min(tile.first_head + tile.heads, (kv_head + 1) * queries_per_kv),
            (tile.queries + step_queries - 1) / step_queries};
}

template <int depth>
struct KeyPassShared {
    using Own = HeadRows<own_rows, depth>;
    using Step = HeadRows<step_queries, depth>;

    Own k[own_stages];
    Own v[own_stages];
    Step q[stages];
    Step d_out[stages];
    float negated_lse[stages][step_queries];
    float delta[stages][step_queries];
    KeyPass pass[own_stages];
    Ring<own_stages> own;
    Ring<stages> steps;

    __device__ void init() {
        own.init(1, 2);  // the warps of lse and delta read `pass`
        steps.init(1 + 2 * warp_threads);
        machine::publish_barriers();
    }
};

// By one thread: the rows of one job after another.
template <int depth>
__device__ void fetch_rows(const BackwardMaps& maps, const AttentionBackward<Cuda>& op,
                           const BackwardJobs& jobs, KeyPassShared<depth>& shared) {
    constexpr int blocks = depth / block_columns;
    Turn<own_stages> own;
    Turn<stages> turn;
    for (int job = BackwardJobs::first(); jobs.has(job); job = jobs.next()) {
        shared.own.wait_until_empty(own);
        KeyPass& pass = shared.pass[own.stage];  // not in registers, of which there are few
        pass = make_pass(jobs, job, static_cast<int>(op.queries_per_kv));
        if (pass.is_none()) {
            continue;
        }
        machine::Barrier* const own_full = &shared.own.full[own.stage];
        const int kv_block = (pass.kv_head - static_cast<int>(op.block.first_head)) * blocks;
        const int key = pass.tile.first_key;
        machine::arrive_expecting(own_full, 2 * TileShape<own_rows, depth>::bytes);
        machine::copy_box(shared.k[own.stage].at, maps.k, key, kv_block, own_full);
        machine::copy_box(shared.v[own.stage].at, maps.v, key, kv_block, own_full);
        for (int head = pass.first_head; head < pass.end_head; ++head) {
            int row = pass.tile.first_query;
#pragma unroll 1
            for (int left = pass.steps; left > 0; --left, turn.advance(), row += step_queries) {
                shared.steps.wait_until_empty(turn);
                machine::Barrier* const full = &shared.steps.full[turn.stage];
                machine::arrive_expecting(full, 2 * TileShape<step_queries, depth>::bytes);
                machine::copy_box(shared.q[turn.stage].at, maps.q, row, head * blocks, full);
                machine::copy_box(shared.d_out[turn.stage].at, maps.d_out, row, head * blocks,
                                  full);
            }
        }
        own.advance();
    }
    shared.own.wait_until_empty(own);
    shared.pass[own.stage].end_head = shared.pass[own.stage].first_head = 0;
    machine::arrive(&shared.own.full[own.stage]);
}

// By a warp for lse and one for delta: what it reads of a step is under way while it waits for the stage.
// `nothing` stands for a query that is not there.
template <int depth, class Change>
__device__ void fetch_statistic(View<Cuda, const float, 2> from, float nothing,
                                const Change& change, KeyPassShared<depth>& shared,
                                float (&to)[stages][step_queries]) {
    constexpr int each = step_queries / warp_threads;
    const int lane = static_cast<int>(threadIdx.x) % warp_threads;
    Turn<stages> turn;
    for (Turn<own_stages> own;; own.advance()) {
        shared.own.wait_until_full(own);
        const KeyPass& pass = shared.pass[own.stage];
        if (pass.is_none()) {
            return;
        }
        for (int head = pass.first_head; head < pass.end_head; ++head) {
            const float* at = from.row(head) + pass.tile.first_query + lane;
#pragma unroll 1
            for (int left = pass.tile.queries - lane; left > -lane; left -= step_queries) {
                float x[each];
#pragma unroll
                for (int i = 0; i < each; ++i) {
                    x[i] = i * warp_threads < left ? at[i * warp_threads] : nothing;
                }
                shared.steps.wait_until_empty(turn);
#pragma unroll
                for (int i = 0; i < each; ++i) {
                    to[turn.stage][lane + i * warp_threads] = change(x[i]);
                }
                machine::arrive(&shared.steps.full[turn.stage]);
                turn.advance();
                at += step_queries;
            }
        }
        shared.own.leave(own);
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

// What a warpgroup knows of its job: its rows are left operands.
struct KeyPassPart {
    const KeyPass& pass;
    const OwnPlace& place;
    machine::Operand k;
    machine::Operand v;
    float scale;
};

// By a warpgroup: its rows of d_k / scale and d_v.
template <int depth>
__device__ void sum_steps(const KeyPassPart& own, KeyPassShared<depth>& shared, Turn<stages>& turn,
                          Gradient<depth>& d_k, Gradient<depth>& d_v) {
    const KeyPass& pass = own.pass;
    const OwnPlace& place = own.place;
    const int diagonal = pass.tile.diagonal;
    const int steps = pass.steps;
    // Steps at the beginning of which no query sees any of the warpgroup's keys, if it has any.
    const int unseen = place.first_row < pass.tile.keys
                           ? std::max(0, place.first_row - diagonal + 1) / step_queries
                           : steps;
    for (int heads = pass.end_head - pass.first_head; heads > 0; --heads) {
#pragma unroll 1
        for (int step = 0; step < steps; ++step, turn.advance()) {
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
            start_scores<depth>(s, own.k, q);
            start_scores<depth>(d_p, own.v, d_out);
            machine::wait_for_products<1>();
            machine::tie(s);
            const int query = step * step_queries;
            if (query + diagonal < place.first_row + group_rows) {
                hide_queries(s, query, diagonal, place);
            }
            exponentiate_columns(s, own.scale, shared.negated_lse[turn.stage], place);
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

// By a warpgroup: one job after another.
template <int depth>
__device__ void compute(const AttentionBackward<Cuda>& op, float scale, const OwnPlace& place,
                        KeyPassShared<depth>& shared) {
    Turn<stages> turn;
    for (Turn<own_stages> own;; own.advance()) {
        shared.own.wait_until_full(own);
        const KeyPass pass = shared.pass[own.stage];
        if (pass.is_none()) {
            return;
        }
        Gradient<depth> d_k = {};
        Gradient<depth> d_v = {};
        const KeyPassPart part{pass, place, shared.k[own.stage].operand(place.first_row),
                               shared.v[own.stage].operand(place.first_row), scale * log2_e};
        sum_steps(part, shared, turn, d_k, d_v);
        shared.own.leave(own);
        const AttentionTile& tile = pass.tile;
        const Index column = (pass.kv_head - op.block.first_head) * depth;
        write_gradient<depth>(d_k, scale, place,
                              part_of(op.d_k, tile.first_key, tile.keys, column, depth),
                              op.overwrites);
        write_gradient<depth>(d_v, 1.0F, place,
                              part_of(op.d_v, tile.first_key, tile.keys, column, depth),
                              op.overwrites);
    }
}

template <int depth>
__global__ void __launch_bounds__(backward_threads, 1)
    key_gradients_kernel(const __grid_constant__ BackwardMaps maps, AttentionBackward<Cuda> op,
                         BackwardJobs jobs, float scale) {
    auto& shared = *reinterpret_cast<KeyPassShared<depth>*>(machine::aligned_shared());
    if (threadIdx.x == 0) {
        shared.init();
    }
    __syncthreads();
    const int group = warpgroup();
    if (group == 0) {
        machine::keep_registers<24>();
        const int warp = static_cast<int>(threadIdx.x) / warp_threads;
        if (threadIdx.x == 0) {
            fetch_rows(maps, op, jobs, shared);
        } else if (warp == 1) {
            const auto negate = [](float x) { return negated_lse(x); };
            fetch_statistic(op.lse, INFINITY, negate, shared, shared.negated_lse);
        } else if (warp == 2) {
            const auto as_it_is = [](float x) { return x; };
            fetch_statistic(op.delta, 0.0F, as_it_is, shared, shared.delta);
        }
    } else {
        machine::take_registers<240>();
        compute(op, scale, OwnPlace(group - 1), shared);
    }
}

template <int depth>
void start(const Stream<Cuda>& stream, const AttentionBackward<Cuda>& op, const BackwardMaps& maps,
           bool stay) {
    const auto start_round = [&](const AttentionWork& work) {
        launch_jobs<KeyPassShared<depth>>(stream, work, stay,
                                          [&](const Grid& grid, const BackwardJobs& jobs) {
                                              launch(stream, key_gradients_kernel<depth>, grid,
                                                     maps, op, jobs, score_scale(depth));
                                          });
    };
    for_each_work(stream, key_tiles(op.items, op.queries_per_kv, own_rows), start_round);
}

}  // namespace

bool add_key_gradients(const Stream<Cuda>& stream, const AttentionBackward<Cuda>& op, bool stay) {
    BackwardMaps maps;
    if ((op.head_dim != 64 && op.head_dim != 128) || !has_aligned_gradients(op) ||
        !make_backward_maps(op, step_queries, own_rows, maps)) {
        return false;
    }
    (op.head_dim == 64 ? start<64> : start<128>)(stream, op, maps, stay);
    return true;
}

}  // namespace longlora::hopper
