// Attention's forward pass for Hopper. A block of threads takes one task after another, 128 queries of one
// head: its first warpgroup fetches (one thread does), the other two compute 64 queries each. Keys come
// from the last to the first: those that some query does not see are at the end. Keys behind come after.
#include "kernels/cuda/hopper/forward_tasks.cuh"

namespace longlora::hopper {
namespace {

using machine::Barrier;
using machine::Major;
using machine::Operand;

// Named barriers: [i] lets compute group i start its products, [2 + i] is that of its own threads.
constexpr int first_named_barrier = 1;

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

// A compute group: 64 queries of each task.
template <int depth, bool overlaps>
class Consumer {
    using Shared = ForwardShared<depth>;
    using Tile = typename Shared::Tile;

public:
    __device__ Consumer(const AttentionForward<Cuda>& op, const Shared& shared, float scale,
                        int group)
        : op_(op),
          shared_(shared),
          control_(shared.control()),
          scale_(scale),
          group_(group),
          q_(machine::make_operand(shared.q() + group * group_rows * 128, Tile::block_bytes)) {}

    __device__ void run() {
        if (overlaps && group_ == 1) {
            machine::arrive_threads(first_named_barrier, compute_groups * group_threads);
        }
        while (take_task()) {
            if constexpr (overlaps) {
                attend_overlapped();
            } else {
                attend_in_turn();
            }
            store_state();
        }
        if (overlaps && group_ == 0) {  // the other group's last turn is over: its barrier is empty
            machine::sync_threads(first_named_barrier, compute_groups * group_threads);
        }
    }

private:
    __device__ bool take_task() {
        machine::wait(&control_.task_full, task_turn_.parity);
        task_ = control_.task;
        __syncwarp();
        release(control_.task_empty);
        task_turn_.advance();
        return task_.steps > 0;
    }

    // The task's first scores, and meanwhile what (out, lse) hold so far.
    __device__ void begin(Scores& s) {
        machine::wait(&control_.q_full, q_turn_.parity);
        q_turn_.advance();
        machine::wait(&control_.k_full[turn_.stage], turn_.parity);
        machine::fence_products();
        start_scores<depth>(s, q_, k(turn_.stage));
        state_ = load_state<depth>(op_, task_.tile, task_.head, row(), place_.column, out_);
        machine::wait_for_products<0>();
        machine::tie(s);
        end_scores(0);
        if (task_.hidden > 0) {
            hide_keys(s, task_.tile, task_.key(0), row(), place_.column);
        }
    }

    // The scores of `step` are there: its keys, and with the last step the queries, are read no more.
    __device__ void end_scores(int step) {
        release(control_.k_empty[turn_.stage]);
        if (step + 1 == task_.steps) {
            release(control_.q_empty);
        }
    }

    // Keys that are not there, in the first step of those behind.
    __device__ void hide_behind(Scores& s, int step) const {
        const int end = task_.tile.keys_behind - task_.key(step);
        if (end < forward_keys) {
            hide_keys(s, {end, end}, place_.column);
        }
    }

    // One step after another; products and softmax of the group alternate.
    __device__ void attend_in_turn() {
        Scores s;
        Probabilities p;
        float rescale[2];
        begin(s);
        for (int step = 0;;) {
            continue_softmax<true>(s, scale_, state_, rescale);
            pack_probabilities(s, p);
            rescale_rows(out_, rescale);
            machine::wait(&control_.v_full[turn_.stage], turn_.parity);
            machine::fence_products();
            start_values<depth>(out_, p, v(turn_.stage));
            machine::wait_for_products<0>();
            machine::tie(out_);
            tie(p);
            release(control_.v_empty[turn_.stage]);
            turn_.advance();
            if (++step == task_.steps) {
                return;
            }
            machine::wait(&control_.k_full[turn_.stage], turn_.parity);
            machine::fence_products();
            start_scores<depth>(s, q_, k(turn_.stage));
            machine::wait_for_products<0>();
            machine::tie(s);
            end_scores(step);
            if (step < task_.hidden) {
                hide_keys(s, task_.tile, task_.key(step), row(), place_.column);
            } else if (step == task_.first_behind()) {
                restart(state_, place_.column, out_);
                hide_behind(s, step);
            }
        }
    }

    // The products of a step's scores and those of the values before run beside the softmax between; the
    // two groups take turns, so that the softmax of one has the products of the other beside it, too.
    __device__ void attend_overlapped() {
        Scores s;
        Probabilities p;
        float rescale[2];
        begin(s);
        continue_softmax<true>(s, scale_, state_, rescale);
        pack_probabilities(s, p);
        rescale_rows(out_, rescale);
        machine::wait(&control_.v_full[turn_.stage], turn_.parity);

        int step = 1;
        for (; step < task_.hidden; ++step) {
            overlap_step<true>(step, s, p);
        }
        for (int end = task_.first_behind();; end = task_.steps) {
            for (; step < end; ++step) {
                overlap_step<false>(step, s, p);
            }
            if (step == task_.steps) {
                break;
            }
            step_behind(step++, s, p);
        }

        machine::fence_products();
        start_values<depth>(out_, p, v(turn_.stage));
        machine::wait_for_products<0>();
        machine::tie(out_);
        release(control_.v_empty[turn_.stage]);
        turn_.advance();
    }

    // Products of the next scores, and of the values of the step before, when it is the group's turn. The
    // answer: the turn of that step, which turn_ has been; its v is there.
    __device__ Turn<Shared::stages> start_step(Scores& s, const Probabilities& p) {
        const Turn<Shared::stages> before = turn_;
        turn_.advance();
        machine::wait(&control_.k_full[turn_.stage], turn_.parity);
        machine::sync_threads(first_named_barrier + group_, compute_groups * group_threads);
        machine::fence_products();
        start_scores<depth>(s, q_, k(turn_.stage));
        start_values<depth>(out_, p, v(before.stage));
        machine::arrive_threads(first_named_barrier + 1 - group_, compute_groups * group_threads);
        return before;
    }

    // Scores of `step`, values of the step before.
    template <bool may_be_hidden>
    __device__ void overlap_step(int step, Scores& s, Probabilities& p) {
        const Turn<Shared::stages> before = start_step(s, p);
        machine::wait_for_products<1>();
        machine::tie(s);
        end_scores(step);
        if constexpr (may_be_hidden) {
            hide_keys(s, task_.tile, task_.key(step), row(), place_.column);
        }
        float rescale[2];
        continue_softmax<may_be_hidden>(s, scale_, state_, rescale);
        // ptxas moves exponentials behind the wait for products, but not behind this one.
        machine::wait(&control_.v_full[turn_.stage], turn_.parity);
        machine::wait_for_products<0>();
        machine::tie(out_);
        tie(p);
        release(control_.v_empty[before.stage]);
        pack_probabilities(s, p);
        rescale_rows(out_, rescale);
    }

    // The first of the keys behind: as overlap_step, but `out_` must be whole before the softmax.
    __device__ void step_behind(int step, Scores& s, Probabilities& p) {
        const Turn<Shared::stages> before = start_step(s, p);
        machine::wait_for_products<0>();
        machine::tie(s);
        machine::tie(out_);
        tie(p);
        end_scores(step);
        release(control_.v_empty[before.stage]);
        restart(state_, place_.column, out_);
        hide_behind(s, step);
        float rescale[2];
        continue_softmax<true>(s, scale_, state_, rescale);
        machine::wait(&control_.v_full[turn_.stage], turn_.parity);
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
    __device__ static void release(Barrier& empty) {
        if (threadIdx.x % 32 == 0) {
            machine::arrive(&empty);
        }
    }

    // Through shared memory: a warp writes whole rows.
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
        std::uint32_t thread[1] = {threadIdx.x};
        machine::tie(thread);  // else places are computed before the first task, and kept
        const int lane = static_cast<int>(thread[0]) % 32;
        const int first_row = group_ * group_rows + static_cast<int>(thread[0]) / 32 % 4 * 16;
        __syncwarp();  // all lanes have read the task before
#pragma unroll
        for (int n = 0; n < depth / 16; ++n) {
            const float* const c = out_ + 8 * n;
            const std::uint32_t packed[4] = {machine::pack(c[0], c[1]), machine::pack(c[2], c[3]),
                                             machine::pack(c[4], c[5]), machine::pack(c[6], c[7])};
            machine::store_matrices(
                Tile::chunk(shared_.out(), first_row + lane % 16, 2 * n + lane / 16), packed);
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
                    *reinterpret_cast<const uint4*>(Tile::chunk(shared_.out(), at, chunk));
            }
        }
    }

    const AttentionForward<Cuda>& op_;
    const Shared& shared_;
    typename Shared::Control& control_;
    float scale_;
    int group_;
    Operand q_;
    LanePlace place_;
    ForwardTask task_;
    Turn<1> task_turn_, q_turn_;
    Turn<Shared::stages> turn_;
    RunningSoftmax state_;
    float out_[depth / 2];
};

template <int depth, bool overlaps>
__global__ void __launch_bounds__(forward_threads, 1)
    attention_forward_kernel(AttentionForward<Cuda> op, ForwardTasks tasks,
                             const __grid_constant__ ForwardMaps maps, float scale) {
    const ForwardShared<depth> shared;
    if (threadIdx.x == 0) {
        shared.init_barriers();
    }
    __syncthreads();
    const int group = warpgroup();
    if (group == 0) {
        machine::keep_registers<40>();
        if (threadIdx.x == 0) {
            Producer<depth>(shared, maps).run(op, tasks);
        }
    } else {
        machine::take_registers<232>();
        Consumer<depth, overlaps>(op, shared, scale, group - 1).run();
    }
}

int multiprocessors() {
    int device = 0;
    int count = 0;
    cuda_check(cudaGetDevice(&device), "ask for the device");
    cuda_check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device),
               "describe a device");
    return count;
}

template <int depth>
void start(const Stream<Cuda>& stream, const AttentionForward<Cuda>& op, const ForwardMaps& maps,
           bool overlaps) {
    // Behind the tiles, in the stream's workspace.
    auto* const taken = static_cast<unsigned*>(stream.workspace()) +
                        (CudaStream::workspace_bytes / sizeof(unsigned) - 1);
    const float scale = score_scale(depth) * log2_e;
    const auto rounds = joined(query_tiles(op.items, tile_queries));
    for_each_work(stream, rounds, [&](const AttentionWork& work) {
        clear_bytes(stream, taken, sizeof *taken);
        const int blocks = std::min(work.count * work.heads, multiprocessors());
        const Grid grid{dim3(static_cast<unsigned>(blocks)), dim3(forward_threads),
                        static_cast<std::size_t>(ForwardShared<depth>::bytes)};
        launch(stream,
               overlaps ? attention_forward_kernel<depth, true>
                        : attention_forward_kernel<depth, false>,
               grid, op, ForwardTasks{work, taken}, maps, scale);
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
