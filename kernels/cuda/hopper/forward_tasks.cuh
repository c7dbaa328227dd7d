#pragma once

#include "kernels/cuda/attention_passes.hpp"
#include "kernels/cuda/hopper/forward_softmax.cuh"

// What blocks of Hopper's forward pass compute, the shared memory they have for it, and the thread that
// fetches their operands.
namespace longlora::hopper {

constexpr int tile_queries = 128;
constexpr int compute_groups = 2;
constexpr int forward_threads = (1 + compute_groups) * group_threads;
constexpr int compute_warps = compute_groups * 4;

// What a block computes.
struct ForwardTask {
    AttentionTile tile;
    int head;
    int kv_head;  // of the block of keys
    int steps;    // blocks of keys; 0: there is no task any more
    int behind;   // how many of them, the last to come, are of the keys behind
    int hidden;   // how many, the first to come, have keys that a query does not see

    __device__ int first_behind() const { return steps - behind; }
    // Of the tile's keys, or of those behind.
    __device__ int key(int step) const {
        return ((step < first_behind() ? first_behind() : steps) - 1 - step) * forward_keys;
    }
    __device__ int key_row(int step) const {
        return (step < first_behind() ? tile.first_key : tile.first_key_behind) + key(step);
    }
};

// All tasks of a launch. Blocks of threads take first the one of their number, then the next that is
// left: which block computes a task shows in no result.
struct ForwardTasks {
    AttentionWork work;
    unsigned* taken;  // beyond the first of each block; 0 at the start
};

// Tasks of one head follow one another, in each window of keys the longest first: those that run at once
// share K/V. No steps where the tile has fewer heads than others.
__device__ inline ForwardTask make_task(const AttentionForward<Cuda>& op, const AttentionWork& work,
                                        int index) {
    const AttentionTile tile = work.tiles[index % work.count];
    const int head = tile.first_head + index / work.count;
    if (head >= tile.first_head + tile.heads) {
        return {};
    }
    const int steps = (tile.keys + forward_keys - 1) / forward_keys;
    const int behind = (tile.keys_behind + forward_keys - 1) / forward_keys;
    const int seen_by_all = std::max(0, std::min(tile.keys, tile.diagonal));
    return {.tile = tile,
            .head = head,
            .kv_head = static_cast<int>(head / op.queries_per_kv - op.block.first_head),
            .steps = steps + behind,
            .behind = behind,
            .hidden = steps - seen_by_all / forward_keys};
}

// A block's shared memory.
template <int depth>
struct ForwardShared {
    static constexpr int stages = depth == 64 ? 3 : 2;
    static_assert(tile_queries == forward_keys);
    using Tile = TileShape<forward_keys, depth>;

    struct Control {
        machine::Barrier task_full, task_empty;
        machine::Barrier q_full, q_empty;
        machine::Barrier k_full[stages], k_empty[stages];
        machine::Barrier v_full[stages], v_empty[stages];
        ForwardTask task;
    };
    static constexpr int tiles = 2 + 2 * stages;
    static constexpr int bytes = 1024 + tiles * Tile::bytes + static_cast<int>(sizeof(Control));

    unsigned char* data = machine::aligned_shared();

    __device__ unsigned char* q() const { return data; }
    __device__ unsigned char* out() const { return data + Tile::bytes; }
    __device__ unsigned char* k(int stage) const { return data + (2 + stage) * Tile::bytes; }
    __device__ unsigned char* v(int stage) const {
        return data + (2 + stages + stage) * Tile::bytes;
    }
    __device__ Control& control() const {
        return *reinterpret_cast<Control*>(data + tiles * Tile::bytes);
    }

    __device__ void init_barriers() const {
        const auto init = [](machine::Barrier& full, machine::Barrier& empty) {
            machine::init_barrier(&full, 1);
            machine::init_barrier(&empty, compute_warps);
        };
        init(control().task_full, control().task_empty);
        init(control().q_full, control().q_empty);
        for (int stage = 0; stage < stages; ++stage) {
            init(control().k_full[stage], control().k_empty[stage]);
            init(control().v_full[stage], control().v_empty[stage]);
        }
        machine::publish_barriers();
    }
};

struct ForwardMaps {
    TensorMap q;
    TensorMap k;
    TensorMap v;
};

// One thread: hands out the tasks, and starts all copies in the order in which they are needed.
template <int depth>
class Producer {
    using Shared = ForwardShared<depth>;

public:
    __device__ Producer(const Shared& shared, const ForwardMaps& maps)
        : shared_(shared), control_(shared.control()), maps_(maps) {}

    __device__ void run(const AttentionForward<Cuda>& op, const ForwardTasks& tasks) {
        int index = static_cast<int>(blockIdx.x);
        while (index < tasks.work.count * tasks.work.heads) {
            const ForwardTask task = make_task(op, tasks.work, index);
            index = static_cast<int>(gridDim.x + atomicAdd(tasks.taken, 1U));
            if (task.steps > 0) {
                hand_out(task);
                fetch(task);
            }
        }
        hand_out({});
    }

private:
    __device__ void hand_out(const ForwardTask& task) {
        machine::wait(&control_.task_empty, task_.parity ^ 1);
        control_.task = task;
        machine::arrive(&control_.task_full);
        task_.advance();
    }
    __device__ void fetch(const ForwardTask& task) {
        for (int step = 0; step <= task.steps; ++step) {
            if (step < task.steps) {
                machine::wait(&control_.k_empty[k_.stage], k_.parity ^ 1);
                copy(shared_.k(k_.stage), maps_.k, task.key_row(step), task.kv_head,
                     control_.k_full[k_.stage]);
                k_.advance();
            }
            if (step == 0) {
                machine::wait(&control_.q_empty, q_.parity ^ 1);
                copy(shared_.q(), maps_.q, task.tile.first_query, task.head, control_.q_full);
                q_.advance();
            }
            if (step > 0) {
                machine::wait(&control_.v_empty[v_.stage], v_.parity ^ 1);
                copy(shared_.v(v_.stage), maps_.v, task.key_row(step - 1), task.kv_head,
                     control_.v_full[v_.stage]);
                v_.advance();
            }
        }
    }
    __device__ static void copy(unsigned char* to, const TensorMap& map, int row, int head,
                                machine::Barrier& full) {
        machine::arrive_expecting(&full, Shared::Tile::bytes);
        machine::copy_box(to, map, row, head * (depth / block_columns), &full);
    }

    const Shared& shared_;
    typename Shared::Control& control_;
    const ForwardMaps& maps_;
    Turn<1> task_, q_;
    Turn<Shared::stages> k_, v_;
};

}  // namespace longlora::hopper
