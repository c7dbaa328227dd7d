#include "kernels/cuda/hopper/attention_backward.cuh"

// dQ of 128 queries of one head, which hold still; keys and values pass by. A warpgroup has 64 queries as
// rows of S = Q K' and dP = dO V', with q and d_out in registers.
namespace longlora::hopper {
namespace {

constexpr int stages = 4;

// Whether a warpgroup holds its rows of q and d_out in registers, where products read them faster. With
// heads 64 wide ptxas (CUDA 13.0) gives registers of d_out to dS, although the next step reads them.
template <int depth>
constexpr bool holds_rows = depth > 64;

// The next job's rows arrive when this one's are in registers, or beside them.
template <int depth>
constexpr int own_stages = holds_rows<depth> ? 1 : 2;
constexpr int step_keys = step_rows;

// A job, as all warps of the block see it.
struct QueryPass {
    AttentionTile tile;
    int head;  // < 0: there is no job left
    int steps;

    __device__ bool is_none() const { return head < 0; }
};

__device__ inline QueryPass make_pass(const BackwardJobs& jobs, int job) {
    const AttentionTile& tile = jobs.tile(job);
    const int head = jobs.head(job);
    return {tile, head < tile.heads ? tile.first_head + head : -1,
            (tile.keys + step_keys - 1) / step_keys};
}

template <int depth>
struct QueryPassShared {
    using Own = HeadRows<own_rows, depth>;
    using Step = HeadRows<step_keys, depth>;

    Own q[own_stages<depth>];
    Own d_out[own_stages<depth>];
    Step k[stages];
    Step v[stages];
    QueryPass pass[own_stages<depth>];
    Ring<own_stages<depth>> own;
    Ring<stages> steps;

    __device__ void init() {
        own.init(1);
        steps.init(1);
        machine::publish_barriers();
    }
};

// By one thread: the rows of one job after another.
template <int depth>
__device__ void fetch_rows(const BackwardMaps& maps, const AttentionBackward<Cuda>& op,
                           const BackwardJobs& jobs, QueryPassShared<depth>& shared) {
    constexpr int blocks = depth / block_columns;
    Turn<own_stages<depth>> own;
    Turn<stages> turn;
    for (int job = BackwardJobs::first(); jobs.has(job); job = jobs.next()) {
        shared.own.wait_until_empty(own);
        QueryPass& pass = shared.pass[own.stage];
        pass = make_pass(jobs, job);
        if (pass.is_none()) {
            continue;
        }
        machine::Barrier* const own_full = &shared.own.full[own.stage];
        const int block = pass.head * blocks;
        const int query = pass.tile.first_query;
        machine::arrive_expecting(own_full, 2 * TileShape<own_rows, depth>::bytes);
        machine::copy_box(shared.q[own.stage].at, maps.q, query, block, own_full);
        machine::copy_box(shared.d_out[own.stage].at, maps.d_out, query, block, own_full);
        const auto kv_head = pass.head / op.queries_per_kv - op.block.first_head;
        const int kv_block = static_cast<int>(kv_head) * blocks;
        int row = pass.tile.first_key;
#pragma unroll 1
        for (int left = pass.steps; left > 0; --left, turn.advance(), row += step_keys) {
            shared.steps.wait_until_empty(turn);
            machine::Barrier* const full = &shared.steps.full[turn.stage];
            machine::arrive_expecting(full, 2 * TileShape<step_keys, depth>::bytes);
            machine::copy_box(shared.k[turn.stage].at, maps.k, row, kv_block, full);
            machine::copy_box(shared.v[turn.stage].at, maps.v, row, kv_block, full);
        }
        own.advance();
    }
    shared.own.wait_until_empty(own);
    shared.pass[own.stage].head = -1;
    machine::arrive(&shared.own.full[own.stage]);
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

// Of the thread's two rows; those that are not there have P = 0. Used as they are: the first products run
// while they arrive.
struct RowStatistics {
    float lse[2] = {INFINITY, INFINITY};
    float delta[2] = {0, 0};

    __device__ RowStatistics(const AttentionBackward<Cuda>& op, const QueryPass& pass,
                             const OwnPlace& place) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const int row = place.row + 8 * r;
            if (row < pass.tile.queries) {
                const Index query = Index{pass.tile.first_query} + row;
                lse[r] = op.lse.row(pass.head)[query];
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
        s[i] = machine::exp2_fast(fmaf(s[i], scale, -of_rows.lse[i / 2 % 2]));
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

// The warpgroup's rows as left operands.
template <int depth>
struct QueryPassOperands {
    machine::Operand q;
    machine::Operand d_out;

    __device__ QueryPassOperands(const HeadRows<own_rows, depth>& all_q,
                                 const HeadRows<own_rows, depth>& all_d_out, const OwnPlace& place)
        : q(all_q.operand(place.first_row)), d_out(all_d_out.operand(place.first_row)) {}
};
template <int depth>
    requires(holds_rows<depth>)
struct QueryPassOperands<depth> {
    std::uint32_t q[depth / 16][4];
    std::uint32_t d_out[depth / 16][4];

    __device__ QueryPassOperands(HeadRows<own_rows, depth>& all_q,
                                 HeadRows<own_rows, depth>& all_d_out, const OwnPlace& place) {
        load_rows<depth>(all_q, place, q);
        load_rows<depth>(all_d_out, place, d_out);
    }
};

// What a warpgroup knows of its job.
template <int depth>
struct QueryPassPart {
    const QueryPass& pass;
    const OwnPlace& place;
    const QueryPassOperands<depth>& rows;
    const RowStatistics& of_rows;
    float scale;
};

// By a warpgroup: its rows of d_q / scale.
template <int depth>
__device__ void sum_steps(const QueryPassPart<depth>& own, QueryPassShared<depth>& shared,
                          Turn<stages>& turn, Gradient<depth>& d_q) {
    const QueryPass& pass = own.pass;
    const OwnPlace& place = own.place;
    const AttentionTile& tile = pass.tile;
    // Keys that all of the warpgroup's queries see, and those that one of them sees, if it has any.
    const int seen_by_all = std::min(tile.keys, tile.diagonal + place.first_row);
    const int seen_by_any =
        place.first_row < tile.queries
            ? std::min(tile.keys, tile.diagonal + place.first_row + group_rows - 1)
            : 0;
    const int steps = pass.steps;
#pragma unroll 1
    for (int step = 0; step < steps; ++step, turn.advance()) {
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
        start_scores<depth>(s, own.rows.q, k);
        start_scores<depth>(d_p, own.rows.d_out, shared.v[turn.stage]);
        machine::wait_for_products<1>();
        machine::tie(s);
        if (key + step_keys > seen_by_all) {
            hide_keys(s, tile, key, place);
        }
        exponentiate_rows(s, own.scale, own.of_rows);
        machine::wait_for_products<0>();
        machine::tie(d_p);
        differentiate_rows(s, d_p, own.of_rows);
        pack(d_p, packed_d_s);
        machine::fence_products();
        start_gradient<depth>(d_q, packed_d_s, k);
        machine::wait_for_products<0>();
        machine::tie(d_q);
        shared.steps.leave(turn);
    }
}

// By a warpgroup: one job after another.
template <int depth>
__device__ void compute(const AttentionBackward<Cuda>& op, float scale, const OwnPlace& place,
                        QueryPassShared<depth>& shared) {
    Turn<stages> turn;
    for (Turn<own_stages<depth>> own;; own.advance()) {
        shared.own.wait_until_full(own);
        const QueryPass pass = shared.pass[own.stage];
        if (pass.is_none()) {
            return;
        }
        const QueryPassOperands<depth> operands(shared.q[own.stage], shared.d_out[own.stage],
                                                place);
        if constexpr (holds_rows<depth>) {
            machine::fence_shared();
            shared.own.leave(own);
        }
        const RowStatistics of_rows(op, pass, place);
        Gradient<depth> d_q = {};
        const QueryPassPart<depth> part{pass, place, operands, of_rows, scale * log2_e};
        sum_steps(part, shared, turn, d_q);
        if constexpr (!holds_rows<depth>) {
            shared.own.leave(own);
        }
        const AttentionTile& tile = pass.tile;
        write_gradient<depth>(
            d_q, scale, place,
            part_of(op.d_q, tile.first_query, tile.queries, Index{pass.head} * depth, depth),
            op.overwrites);
    }
}

template <int depth>
__global__ void __launch_bounds__(backward_threads, 1)
    query_gradients_kernel(const __grid_constant__ BackwardMaps maps, AttentionBackward<Cuda> op,
                           BackwardJobs jobs, float scale) {
    auto& shared = *reinterpret_cast<QueryPassShared<depth>*>(machine::aligned_shared());
    if (threadIdx.x == 0) {
        shared.init();
    }
    __syncthreads();
    const int group = warpgroup();
    if (group == 0) {
        machine::keep_registers<40>();
        if (threadIdx.x == 0) {
            fetch_rows(maps, op, jobs, shared);
        }
    } else {
        machine::take_registers<232>();
        compute(op, scale, OwnPlace(group - 1), shared);
    }
}

template <int depth>
void start(const Stream<Cuda>& stream, const AttentionBackward<Cuda>& op, const BackwardMaps& maps,
           bool stay) {
    const auto start_round = [&](const AttentionWork& work) {
        launch_jobs<QueryPassShared<depth>>(stream, work, stay,
                                            [&](const Grid& grid, const BackwardJobs& jobs) {
                                                launch(stream, query_gradients_kernel<depth>, grid,
                                                       maps, op, jobs, score_scale(depth));
                                            });
    };
    for_each_work(stream, query_tiles(op.items, own_rows), start_round);
}

}  // namespace

bool add_query_gradients(const Stream<Cuda>& stream, const AttentionBackward<Cuda>& op, bool stay) {
    BackwardMaps maps;
    if ((op.head_dim != 64 && op.head_dim != 128) || !has_aligned_gradients(op) ||
        !make_backward_maps(op, own_rows, step_keys, maps)) {
        return false;
    }
    (op.head_dim == 64 ? start<64> : start<128>)(stream, op, maps, stay);
    return true;
}

}  // namespace longlora::hopper
