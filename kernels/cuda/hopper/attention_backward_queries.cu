#include "kernels/cuda/hopper/attention_backward.cuh"

// dQ of 128 queries of one head, which hold still; keys and values pass by. A warpgroup has 64 queries as
// rows of S = Q K' and dP = dO V', with q and d_out in registers.
namespace longlora::hopper {
namespace {

constexpr int stages = 4;
constexpr int step_keys = step_rows;

template <int depth>
struct QueryPassShared {
    using Step = HeadRows<step_keys, depth>;

    HeadRows<own_rows, depth> q;
    HeadRows<own_rows, depth> d_out;
    Step k[stages];
    Step v[stages];
    StepBarriers<stages> steps;
    machine::Barrier own;
};

// What a block works on.
struct QueryPass {
    AttentionTile tile;
    int head;
    int steps;

    __device__ explicit QueryPass(const AttentionWork& work) {
        const BlockPlace place(work);
        tile = place.tile;
        head = tile.first_head + place.head;
        steps = (tile.keys + step_keys - 1) / step_keys;
    }
};

// By one thread.
template <int depth>
__device__ void fetch_rows(const BackwardMaps& maps, const QueryPass& pass, int kv_column_block,
                           QueryPassShared<depth>& shared) {
    const int block = pass.head * (depth / block_columns);
    machine::arrive_expecting(&shared.own, 2 * TileShape<own_rows, depth>::bytes);
    machine::copy_box(shared.q.at, maps.q, pass.tile.first_query, block, &shared.own);
    machine::copy_box(shared.d_out.at, maps.d_out, pass.tile.first_query, block, &shared.own);
    Turn<stages> turn;
#pragma unroll 1
    for (int step = 0; step < pass.steps; ++step, turn.advance()) {
        shared.steps.wait_until_empty(turn);
        machine::Barrier* const full = &shared.steps.full[turn.stage];
        const int row = pass.tile.first_key + step * step_keys;
        machine::arrive_expecting(full, 2 * TileShape<step_keys, depth>::bytes);
        machine::copy_box(shared.k[turn.stage].at, maps.k, row, kv_column_block, full);
        machine::copy_box(shared.v[turn.stage].at, maps.v, row, kv_column_block, full);
    }
}

// The warpgroup's rows as a left operand.
template <int depth>
__device__ void load_rows(HeadRows<own_rows, depth>& from, const OwnPlace& place,
                          std::uint32_t (&to)[depth / 16][4]) {
    const int lane = static_cast<int>(threadIdx.x) % warp_threads;
    const int row = place.row - lane / 4 + lane % 16;
#pragma unroll
    for (int k = 0; k < depth / 16; ++k) {
        machine::load_matrices(
            to[k], HeadRows<own_rows, depth>::Shape::chunk(from.at, row, 2 * k + lane / 16));
    }
}

// Of the thread's two rows; those that are not there have P = 0.
struct RowStatistics {
    float negated_lse[2] = {-INFINITY, -INFINITY};
    float delta[2] = {0, 0};

    __device__ RowStatistics(const AttentionBackward<Cuda>& op, const QueryPass& pass,
                             const OwnPlace& place) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const int row = place.row + 8 * r;
            if (row < pass.tile.queries) {
                const Index query = Index{pass.tile.first_query} + row;
                negated_lse[r] = hopper::negated_lse(op.lse.row(pass.head)[query]);
                delta[r] = op.delta.row(pass.head)[query];
            }
        }
    }
};

// Row: a query of the tile, column: a key, the first of which is the tile's `key`; -infinity for keys
// that the query does not see, or that are not there.
__device__ inline void hide_keys(Scores& s, const AttentionTile& tile, int key,
                                 const OwnPlace& place) {
    const int end[2] = {std::min(tile.keys, tile.diagonal + place.row) - key,
                        std::min(tile.keys, tile.diagonal + place.row + 8) - key};
#pragma unroll
    for (int i = 0; i < step_keys / 2; ++i) {
        if (i / 4 * 8 + place.column + i % 2 >= end[i / 2 % 2]) {
            s[i] = -INFINITY;
        }
    }
}

// s becomes P = 2^(scale s - lse), a query a row.
__device__ inline void exponentiate_rows(Scores& s, float scale, const RowStatistics& of_rows) {
#pragma unroll
    for (int i = 0; i < step_keys / 2; ++i) {
        s[i] = machine::exp2_fast(fmaf(s[i], scale, of_rows.negated_lse[i / 2 % 2]));
    }
}

// d_p becomes dS = P (dP - delta).
__device__ inline void differentiate_rows(const Scores& p, Scores& d_p,
                                          const RowStatistics& of_rows) {
#pragma unroll
    for (int i = 0; i < step_keys / 2; ++i) {
        d_p[i] = p[i] * (d_p[i] - of_rows.delta[i / 2 % 2]);
    }
}

// By a warpgroup: its rows of d_q / scale.
template <int depth>
__device__ void sum_steps(const QueryPass& pass, float scale, const OwnPlace& place,
                          const RowStatistics& of_rows, QueryPassShared<depth>& shared,
                          Gradient<depth>& d_q) {
    const AttentionTile& tile = pass.tile;
    // Keys that all of the warpgroup's queries see, and those that one of them sees, if it has any.
    const int seen_by_all = std::min(tile.keys, tile.diagonal + place.first_row);
    const int seen_by_any =
        place.first_row < tile.queries
            ? std::min(tile.keys, tile.diagonal + place.first_row + group_rows - 1)
            : 0;
    std::uint32_t q[depth / 16][4];
    std::uint32_t d_out[depth / 16][4];
    machine::wait(&shared.own, 0);
    load_rows<depth>(shared.q, place, q);
    load_rows<depth>(shared.d_out, place, d_out);
    Turn<stages> turn;
#pragma unroll 1
    for (int step = 0; step < pass.steps; ++step, turn.advance()) {
        const int key = step * step_keys;
        shared.steps.wait_until_full(turn);
        if (key >= seen_by_any) {
            shared.steps.leave(turn);
            continue;
        }
        const auto& k = shared.k[turn.stage];
        Scores s;
        Scores d_p;
        PackedScores packed_d_s;
        machine::fence_products();
        start_scores<depth>(s, q, k);
        start_scores<depth>(d_p, d_out, shared.v[turn.stage]);
        machine::wait_for_products<1>();
        machine::tie(s);
        if (key + step_keys > seen_by_all) {
            hide_keys(s, tile, key, place);
        }
        exponentiate_rows(s, scale, of_rows);
        machine::wait_for_products<0>();
        machine::tie(d_p);
        differentiate_rows(s, d_p, of_rows);
        pack(d_p, packed_d_s);
        machine::fence_products();
        start_gradient<depth>(d_q, packed_d_s, k);
        machine::wait_for_products<0>();
        machine::tie(d_q);
        shared.steps.leave(turn);
    }
}

template <int depth>
__global__ void __launch_bounds__(backward_threads, 1)
    query_gradients_kernel(const __grid_constant__ BackwardMaps maps, AttentionBackward<Cuda> op,
                           AttentionWork work, float scale) {
    auto& shared = *reinterpret_cast<QueryPassShared<depth>*>(machine::aligned_shared());
    const QueryPass pass(work);
    if (pass.head >= pass.tile.first_head + pass.tile.heads) {
        return;
    }
    if (threadIdx.x == 0) {
        shared.steps.init(1);
        machine::init_barrier(&shared.own, 1);
        machine::publish_barriers();
    }
    __syncthreads();
    const int group = warpgroup();
    if (group == 0) {
        machine::keep_registers<40>();
        if (threadIdx.x == 0) {
            const auto kv_head = pass.head / op.queries_per_kv - op.block.first_head;
            fetch_rows(maps, pass, static_cast<int>(kv_head) * (depth / block_columns), shared);
        }
    } else {
        machine::take_registers<232>();
        const OwnPlace place(group - 1);
        const RowStatistics of_rows(op, pass, place);
        Gradient<depth> d_q = {};
        sum_steps(pass, scale * log2_e, place, of_rows, shared, d_q);
        const AttentionTile& tile = pass.tile;
        add_gradient<depth>(
            d_q, scale, place,
            part_of(op.d_q, tile.first_query, tile.queries, Index{pass.head} * depth, depth));
    }
}

template <int depth>
void start(const Stream<Cuda>& stream, const AttentionBackward<Cuda>& op,
           const BackwardMaps& maps) {
    for_each_work(stream, query_tiles(op.items, own_rows), [&](const AttentionWork& work) {
        launch(stream, query_gradients_kernel<depth>, grid_of_blocks<QueryPassShared<depth>>(work),
               maps, op, work, score_scale(depth));
    });
}

}  // namespace

bool add_query_gradients(const Stream<Cuda>& stream, const AttentionBackward<Cuda>& op) {
    BackwardMaps maps;
    if ((op.head_dim != 64 && op.head_dim != 128) || !has_aligned_gradients(op) ||
        !make_backward_maps(op, own_rows, step_keys, maps)) {
        return false;
    }
    (op.head_dim == 64 ? start<64> : start<128>)(stream, op, maps);
    return true;
}

}  // namespace longlora::hopper
