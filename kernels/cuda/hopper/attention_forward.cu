// Attention's forward pass for Hopper. A block has 128 queries of one head; its first warpgroup fetches
// (one thread does), the other two compute 64 queries each. Key blocks come from the last to the first:
// those with hidden keys are at the end.
#include "kernels/cuda/attention_passes.hpp"
#include "kernels/cuda/hopper/forward_softmax.cuh"

namespace longlora::hopper {
namespace {

using machine::Barrier;
using machine::Major;
using machine::Operand;

constexpr int tile_queries = 128;
constexpr int compute_groups = 2;
constexpr int forward_threads = (1 + compute_groups) * group_threads;
constexpr int compute_warps = compute_groups * 4;

// Named barriers: [i] lets compute group i start its products, [2 + i] is that of its own threads.
constexpr int first_named_barrier = 1;

// A block's shared memory.
template <int depth>
struct ForwardShared {
    static constexpr int stages = depth == 64 ? 3 : 2;
    static_assert(tile_queries == forward_keys);
    using Tile = TileShape<forward_keys, depth>;

    static constexpr int barriers_offset = (1 + 2 * stages) * Tile::bytes;
    static constexpr int barriers = 1 + 4 * stages;
    static constexpr int bytes = 1024 + barriers_offset + barriers * 8;

    unsigned char* data = machine::aligned_shared();

    __device__ unsigned char* q() const { return data; }
    __device__ unsigned char* k(int stage) const { return data + (1 + stage) * Tile::bytes; }
    __device__ unsigned char* v(int stage) const {
        return data + (1 + stages + stage) * Tile::bytes;
    }
    __device__ Barrier* q_full() const {
        return reinterpret_cast<Barrier*>(data + barriers_offset);
    }
    __device__ Barrier* k_full(int stage) const { return q_full() + 1 + stage; }
    __device__ Barrier* v_full(int stage) const { return q_full() + 1 + stages + stage; }
    __device__ Barrier* k_empty(int stage) const { return q_full() + 1 + 2 * stages + stage; }
    __device__ Barrier* v_empty(int stage) const { return q_full() + 1 + 3 * stages + stage; }

    __device__ void init_barriers() const {
        machine::init_barrier(q_full(), 1);
        for (int stage = 0; stage < stages; ++stage) {
            machine::init_barrier(k_full(stage), 1);
            machine::init_barrier(v_full(stage), 1);
            machine::init_barrier(k_empty(stage), compute_warps);
            machine::init_barrier(v_empty(stage), compute_warps);
        }
        machine::publish_barriers();
    }
};

// The maps of q, k and v.
struct ForwardMaps {
    TensorMap q;
    TensorMap k;
    TensorMap v;
};

// What a block computes.
struct ForwardTask {
    AttentionTile tile;
    int head;
    int kv_head;  // of the block of keys
    int steps;    // blocks of keys
    int hidden;   // how many of them, the first to come, have keys that a query does not see

    __device__ int key(int step) const { return (steps - 1 - step) * forward_keys; }
};

__device__ ForwardTask make_task(const AttentionForward<Cuda>& op, const AttentionTile& tile,
                                 int head) {
    const int steps = (tile.keys + forward_keys - 1) / forward_keys;
    const int seen_by_all = std::min(tile.keys, tile.diagonal);
    return {tile, head, static_cast<int>(head / op.queries_per_kv - op.block.first_head), steps,
            steps - std::max(seen_by_all, 0) / forward_keys};
}

// One thread: starts all copies, in the order in which they are needed.
template <int depth>
__device__ void fetch(const ForwardShared<depth>& shared, const ForwardMaps& maps,
                      const ForwardTask& task) {
    constexpr int blocks = depth / block_columns;
    constexpr int bytes = ForwardShared<depth>::Tile::bytes;
    const auto copy = [&](unsigned char* to, const TensorMap& map, int row, int head,
                          Barrier* full) {
        machine::arrive_expecting(full, bytes);
        machine::copy_box(to, map, row, head * blocks, full);
    };
    copy(shared.q(), maps.q, task.tile.first_query, task.head, shared.q_full());
    Turn<ForwardShared<depth>::stages> k_turn;
    Turn<ForwardShared<depth>::stages> v_turn;
    for (int step = 0; step <= task.steps; ++step) {
        if (step < task.steps) {
            machine::wait(shared.k_empty(k_turn.stage), k_turn.parity ^ 1);
            copy(shared.k(k_turn.stage), maps.k, task.tile.first_key + task.key(step), task.kv_head,
                 shared.k_full(k_turn.stage));
            k_turn.advance();
        }
        if (step > 0) {
            machine::wait(shared.v_empty(v_turn.stage), v_turn.parity ^ 1);
            copy(shared.v(v_turn.stage), maps.v, task.tile.first_key + task.key(step - 1),
                 task.kv_head, shared.v_full(v_turn.stage));
            v_turn.advance();
        }
    }
}

// s = q k', as one committed group.
template <int depth>
__device__ void start_scores(Scores& s, Operand q, Operand k) {
    using Tile = typename ForwardShared<depth>::Tile;
#pragma unroll
    for (int i = 0; i < depth / 16; ++i) {
        machine::multiply_async<Major::sum, Major::sum>(s, machine::advance(q, Tile::step(i)),
                                                        machine::advance(k, Tile::step(i)), i > 0);
    }
    machine::commit_products();
}

// out += p v, as one committed group.
template <int depth>
__device__ void start_values(float (&out)[depth / 2], const Probabilities& p, Operand v) {
#pragma unroll
    for (int i = 0; i < forward_keys / 16; ++i) {
        machine::multiply_async<Major::outer>(out, p[i], machine::advance(v, 2048 * i), true);
    }
    machine::commit_products();
}

__device__ void tie(Probabilities& p) {
#pragma unroll
    for (auto& step : p) {
        machine::tie(step);
    }
}

// A compute group's 64 queries.
template <int depth>
class Consumer {
    using Shared = ForwardShared<depth>;
    using Tile = typename Shared::Tile;

public:
    __device__ Consumer(const AttentionForward<Cuda>& op, const Shared& shared,
                        const ForwardTask& task, float scale, int group)
        : op_(op),
          shared_(shared),
          task_(task),
          scale_(scale),
          group_(group),
          q_(machine::make_operand(shared.q() + group * group_rows * 128, Tile::block_bytes)) {}

    // One step after another; products and softmax of the group alternate.
    __device__ void run_plainly() {
        state_ = load_state<depth>(op_, task_.tile, task_.head, row(), place_.column, out_);
        machine::wait(shared_.q_full(), 0);
        Scores s;
        Probabilities p;
        float rescale[2];
        for (int step = 0; step < task_.steps; ++step) {
            machine::wait(shared_.k_full(turn_.stage), turn_.parity);
            machine::fence_products();
            start_scores<depth>(s, q_, k(turn_.stage));
            machine::wait_for_products<0>();
            machine::tie(s);
            release(shared_.k_empty(turn_.stage));
            if (step < task_.hidden) {
                hide_keys(s, task_.tile, task_.key(step), row(), place_.column);
            }
            continue_softmax<true>(s, scale_, state_, rescale);
            pack_probabilities(s, p);
            rescale_rows(out_, rescale);
            machine::wait(shared_.v_full(turn_.stage), turn_.parity);
            machine::fence_products();
            start_values<depth>(out_, p, v(turn_.stage));
            machine::wait_for_products<0>();
            machine::tie(out_);
            tie(p);
            release(shared_.v_empty(turn_.stage));
            turn_.advance();
        }
        store_state();
    }

    // The products of a step's scores and those of the values before run beside the softmax between; the
    // two groups take turns, so that the softmax of one has the products of the other beside it, too.
    __device__ void run_overlapped() {
        state_ = load_state<depth>(op_, task_.tile, task_.head, row(), place_.column, out_);
        if (group_ == 1) {
            machine::arrive_threads(first_named_barrier, compute_groups * group_threads);
        }
        Scores s;
        Probabilities p;
        float rescale[2];
        machine::wait(shared_.q_full(), 0);
        machine::wait(shared_.k_full(0), 0);
        machine::fence_products();
        start_scores<depth>(s, q_, k(0));
        machine::wait_for_products<0>();
        machine::tie(s);
        release(shared_.k_empty(0));
        if (task_.hidden > 0) {
            hide_keys(s, task_.tile, task_.key(0), row(), place_.column);
        }
        continue_softmax<true>(s, scale_, state_, rescale);
        pack_probabilities(s, p);
        rescale_rows(out_, rescale);
        machine::wait(shared_.v_full(0), 0);

        int step = 1;
        for (; step < task_.hidden; ++step) {
            overlap_step<true>(step, s, p);
        }
        for (; step < task_.steps; ++step) {
            overlap_step<false>(step, s, p);
        }

        machine::fence_products();
        start_values<depth>(out_, p, v(turn_.stage));
        machine::wait_for_products<0>();
        machine::tie(out_);
        if (group_ ==
            0) {  // the other group's last turn is over: nobody leaves a barrier half full
            machine::sync_threads(first_named_barrier, compute_groups * group_threads);
        }
        store_state();
    }

private:
    // Scores of `step`, values of the step before: turn_ is that one's.
    template <bool may_be_hidden>
    __device__ void overlap_step(int step, Scores& s, Probabilities& p) {
        const Turn<Shared::stages> before = turn_;
        turn_.advance();
        machine::wait(shared_.k_full(turn_.stage), turn_.parity);
        machine::sync_threads(first_named_barrier + group_, compute_groups * group_threads);
        machine::fence_products();
        start_scores<depth>(s, q_, k(turn_.stage));
        start_values<depth>(out_, p, v(before.stage));
        machine::arrive_threads(first_named_barrier + 1 - group_, compute_groups * group_threads);
        machine::wait_for_products<1>();
        machine::tie(s);
        release(shared_.k_empty(turn_.stage));
        if constexpr (may_be_hidden) {
            hide_keys(s, task_.tile, task_.key(step), row(), place_.column);
        }
        float rescale[2];
        continue_softmax<may_be_hidden>(s, scale_, state_, rescale);
        machine::wait(shared_.v_full(turn_.stage),
                      turn_.parity);  // a branch: exponentials stay above
        machine::wait_for_products<0>();
        machine::tie(out_);
        tie(p);
        release(shared_.v_empty(before.stage));
        pack_probabilities(s, p);
        rescale_rows(out_, rescale);
    }

    __device__ int row() const { return group_ * group_rows + place_.row; }
    __device__ Operand k(int stage) const {
        return machine::make_operand(shared_.k(stage), Tile::block_bytes);
    }
    __device__ Operand v(int stage) const {
        return machine::make_operand(shared_.v(stage), Tile::block_bytes);
    }
    __device__ static void release(Barrier* empty) {
        if (threadIdx.x % 32 == 0) {
            machine::arrive(empty);
        }
    }

    // Through the group's rows of q, which are read no more: a warp writes whole rows.
    __device__ void store_state() {
        float factor[2];
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const float sum = reduce_row(state_.sum[r], [](float a, float b) { return a + b; });
            factor[r] = sum == 0 ? 0 : 1 / sum;
            if (place_.column == 0 && row() + 8 * r < task_.tile.queries) {
                op_.lse.row(task_.head)[Index{task_.tile.first_query} + row() + 8 * r] =
                    state_.maximum[r] + log2f(sum);
            }
        }
        rescale_rows(out_, factor);
        machine::sync_threads(first_named_barrier + 2 + group_, group_threads);
        const int lane = static_cast<int>(threadIdx.x) % 32;
        const int first_row = row() - lane / 4;
#pragma unroll
        for (int n = 0; n < depth / 16; ++n) {
            const float* const c = out_ + 8 * n;
            const std::uint32_t packed[4] = {machine::pack(c[0], c[1]), machine::pack(c[2], c[3]),
                                             machine::pack(c[4], c[5]), machine::pack(c[6], c[7])};
            machine::store_matrices(
                Tile::chunk(shared_.q(), first_row + lane % 16, 2 * n + lane / 16), packed);
        }
        __syncwarp();
        constexpr int chunks = depth / 8;  // of a row
#pragma unroll
        for (int i = 0; i < 16 * chunks; i += 32) {
            const int at = first_row + (i + lane) / chunks;
            const int chunk = (i + lane) % chunks;
            if (at < task_.tile.queries) {
                BFloat16* const to = op_.out.row(Index{task_.tile.first_query} + at) +
                                     Index{task_.head} * depth + 8 * chunk;
                *reinterpret_cast<uint4*>(to) =
                    *reinterpret_cast<const uint4*>(Tile::chunk(shared_.q(), at, chunk));
            }
        }
    }

    const AttentionForward<Cuda>& op_;
    const Shared& shared_;
    const ForwardTask& task_;
    float scale_;
    int group_;
    Operand q_;
    LanePlace place_;
    Turn<Shared::stages> turn_;
    RunningSoftmax state_;
    float out_[depth / 2];
};

template <int depth, bool overlaps>
__global__ void __launch_bounds__(forward_threads, 1)
    attention_forward_kernel(AttentionForward<Cuda> op, AttentionWork work,
                             const __grid_constant__ ForwardMaps maps, float scale) {
    const int block = static_cast<int>(blockIdx.x);
    const AttentionTile tile = work.tiles[block % work.count];
    const int head = tile.first_head + block / work.count;  // blocks that run at once share K/V
    if (head >= tile.first_head + tile.heads) {
        return;
    }
    const ForwardShared<depth> shared;
    const ForwardTask task = make_task(op, tile, head);
    if (threadIdx.x == 0) {
        shared.init_barriers();
    }
    __syncthreads();
    const int group = warpgroup();
    if (group == 0) {
        machine::keep_registers<40>();
        if (threadIdx.x == 0) {
            fetch(shared, maps, task);
        }
    } else {
        machine::take_registers<232>();
        Consumer<depth> consumer(op, shared, task, scale, group - 1);
        if constexpr (overlaps) {
            consumer.run_overlapped();
        } else {
            consumer.run_plainly();
        }
    }
}

template <int depth>
void start(const Stream<Cuda>& stream, const AttentionForward<Cuda>& op, const ForwardMaps& maps,
           bool overlaps) {
    const float scale = score_scale(depth) * log2_e;
    for_each_work(stream, query_tiles(op.items, tile_queries), [&](const AttentionWork& work) {
        const Grid grid{dim3(static_cast<unsigned>(work.count) * static_cast<unsigned>(work.heads)),
                        dim3(forward_threads),
                        static_cast<std::size_t>(ForwardShared<depth>::bytes)};
        launch(stream,
               overlaps ? attention_forward_kernel<depth, true>
                        : attention_forward_kernel<depth, false>,
               grid, op, work, maps, scale);
    });
}

}  // namespace

bool attend(const Stream<Cuda>& stream, const AttentionForward<Cuda>& op, bool overlaps) {
    ForwardMaps maps;
    const auto map_of = [&](View<Cuda, const BFloat16, 2> view, int rows, TensorMap& map) {
        return make_tensor_map(view, {rows, static_cast<int>(op.head_dim / block_columns)}, map);
    };
    if ((op.head_dim != 64 && op.head_dim != 128) || !is_aligned(op.out, 16) ||
        !map_of(op.q, tile_queries, maps.q) || !map_of(op.block.k, forward_keys, maps.k) ||
        !map_of(op.block.v, forward_keys, maps.v)) {
        return false;
    }
    (op.head_dim == 64 ? start<64> : start<128>)(stream, op, maps, overlaps);
    return true;
}

}  // namespace longlora::hopper
