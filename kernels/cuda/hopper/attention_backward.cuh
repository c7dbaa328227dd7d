#pragma once

#include "core/cuda_check.hpp"
#include "kernels/cuda/attention_passes.hpp"
#include "kernels/cuda/attention_tile.cuh"
#include "kernels/cuda/hopper/warpgroup.cuh"

// What the two passes of attention's backward have in common. A block of threads owns 128 rows (keys, or
// queries), 64 for each of two warpgroups that compute; what they are held against passes by in steps
// of 64 rows, fetched by a third warpgroup. A product's result is spread over a warpgroup as
// machine::multiply_async says; rounded and packed in pairs it is the left operand of the next.
namespace longlora::hopper {

constexpr int computing_groups = 2;
constexpr int own_rows = computing_groups * group_rows;
constexpr int step_rows = 64;
constexpr int backward_threads = (1 + computing_groups) * group_threads;

// Two of these are resident, k and v or q and d_out; the others pass by.
struct BackwardMaps {
    TensorMap q;
    TensorMap d_out;
    TensorMap k;
    TensorMap v;
};

// Of boxes with so many rows; false where TMA does not suit the operands.
inline bool make_backward_maps(const AttentionBackward<Cuda>& op, int queries, int keys,
                               BackwardMaps& maps) {
    const int blocks = static_cast<int>(op.head_dim / block_columns);
    return make_tensor_map(op.q, {queries, blocks}, maps.q) &&
           make_tensor_map(op.d_out, {queries, blocks}, maps.d_out) &&
           make_tensor_map(op.block.k, {keys, blocks}, maps.k) &&
           make_tensor_map(op.block.v, {keys, blocks}, maps.v);
}

// Rows of one head in shared memory.
template <int rows, int depth>
struct alignas(1024) HeadRows {
    using Shape = TileShape<rows, depth>;

    unsigned char at[Shape::bytes];

    // From a row on, a multiple of 8.
    __device__ machine::Operand operand(int row = 0) const {
        return machine::make_operand(at + row * block_columns * 2, Shape::block_bytes);
    }
};

// Of a ring of stages in shared memory: a stage is full when its bytes have landed, and empty when both
// warpgroups have worked on it.
template <int stages>
struct Ring {
    machine::Barrier full[stages];
    machine::Barrier empty[stages];

    // more_readers: warps that leave a stage, too.
    __device__ void init(int filling_arrivals, int more_readers = 0) {
        for (int i = 0; i < stages; ++i) {
            machine::init_barrier(&full[i], filling_arrivals);
            machine::init_barrier(&empty[i],
                                  computing_groups * group_threads / warp_threads + more_readers);
        }
    }
    __device__ void wait_until_full(const Turn<stages>& turn) const {
        machine::wait(&full[turn.stage], turn.parity);
    }
    __device__ void wait_until_empty(const Turn<stages>& turn) const {
        machine::wait(&empty[turn.stage], turn.parity ^ 1);
    }
    // By all threads of a warp that has read it.
    __device__ void leave(const Turn<stages>& turn) {
        __syncwarp();
        if (threadIdx.x % warp_threads == 0) {
            machine::arrive(&empty[turn.stage]);
        }
    }
};

// A warpgroup's 64 rows against the 64 of a step: S' and dP', or S and dP.
using Scores = float[step_rows / 2];
// The same as a left operand: packed[k] is step k of 16 columns.
using PackedScores = std::uint32_t[step_rows / 16][4];
// A warpgroup's 64 rows of a gradient.
template <int depth>
using Gradient = float[depth / 2];

// Where the thread's elements are among the block's rows, and in each 8 columns.
struct OwnPlace {
    int first_row;  // of the warpgroup
    int row;        // and row + 8
    int column;     // and the next

    __device__ explicit OwnPlace(int computing_group) : first_row(computing_group * group_rows) {
        const LanePlace lane;
        row = first_row + lane.row;
        column = lane.column;
    }
};

// c = a b', a product of 64 x 64, started; `a` begins at the first of the warpgroup's rows.
template <int depth>
__device__ void start_scores(Scores& c, machine::Operand a,
                             const HeadRows<step_rows, depth>& step) {
    using enum machine::Major;
    const machine::Operand b = step.operand();
#pragma unroll
    for (int k = 0; k < depth / 16; ++k) {
        machine::multiply_async<sum, sum>(
            c, machine::advance(a, TileShape<own_rows, depth>::step(k)),
            machine::advance(b, TileShape<step_rows, depth>::step(k)), k > 0);
    }
    machine::commit_products();
}
// The same with `a` in registers.
template <int depth>
__device__ void start_scores(Scores& c, const std::uint32_t (&a)[depth / 16][4],
                             const HeadRows<step_rows, depth>& step) {
    const machine::Operand b = step.operand();
#pragma unroll
    for (int k = 0; k < depth / 16; ++k) {
        machine::multiply_async<machine::Major::sum>(
            c, a[k], machine::advance(b, TileShape<step_rows, depth>::step(k)), k > 0);
    }
    machine::commit_products();
}
// c += p b, started.
template <int depth>
__device__ void start_gradient(Gradient<depth>& c, const PackedScores& p,
                               const HeadRows<step_rows, depth>& step) {
    const machine::Operand b = step.operand();
#pragma unroll
    for (int k = 0; k < step_rows / 16; ++k) {
        constexpr int sixteen_rows = 16 * block_columns * 2;
        machine::multiply_async<machine::Major::outer>(c, p[k],
                                                       machine::advance(b, k * sixteen_rows), true);
    }
    machine::commit_products();
}

__device__ inline void pack(const Scores& from, PackedScores& to) {
#pragma unroll
    for (int k = 0; k < step_rows / 16; ++k) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            to[k][j] = machine::pack(from[8 * k + 2 * j], from[8 * k + 2 * j + 1]);
        }
    }
}

// to += factor c, or to = factor c, in the thread's rows that `to` has.
template <int depth>
__device__ void write_gradient(const Gradient<depth>& c, float factor, const OwnPlace& place,
                               View<Cuda, float, 2> to, bool overwrites) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const int row = place.row + 8 * r;
        if (row < to.rows()) {
            float* const first = to.row(row) + place.column;
#pragma unroll
            for (int n = 0; n < depth / 8; ++n) {
                const Pack<float, 2> x{with_addend(0.0F, factor, c[4 * n + 2 * r]),
                                       with_addend(0.0F, factor, c[4 * n + 2 * r + 1])};
                if (overwrites) {
                    *reinterpret_cast<Pack<float, 2>*>(first + 8 * n) = x;
                } else {
                    machine::add_to_memory(first + 8 * n, x[0], x[1]);
                }
            }
        }
    }
}

// -lse as P = 2^(scale s - lse) takes it: rows that are not there, or see nothing, have P = 0.
__device__ inline float negated_lse(float lse) { return lse == -INFINITY ? -INFINITY : -lse; }

// What there is to do: a job for each tile and each of its heads. Heads follow one another, so that jobs
// which run at the same time read the same head's rows; in each window of keys the jobs of one head begin
// with the longest.
struct BackwardJobs {
    AttentionWork work;
    unsigned* taken;  // beyond each block's first; null: a block has one job

    __device__ bool has(int job) const { return job < work.count * work.heads; }
    __device__ const AttentionTile& tile(int job) const { return work.tiles[job % work.count]; }
    // Counted from the tile's first.
    __device__ int head(int job) const { return job / work.count; }

    __device__ static int first() { return static_cast<int>(blockIdx.x); }
    // By one thread.
    __device__ int next() const {
        return taken == nullptr ? work.count * work.heads
                                : static_cast<int>(gridDim.x + atomicAdd(taken, 1U));
    }
};

inline bool has_aligned_gradients(const AttentionBackward<Cuda>& op) {
    constexpr std::size_t bytes = alignof(Pack<float, 2>);
    return is_aligned(op.d_q, bytes) && is_aligned(op.d_k, bytes) && is_aligned(op.d_v, bytes);
}

inline unsigned multiprocessors() {
    int device = 0;
    int count = 0;
    cuda_check(cudaGetDevice(&device), "ask for the device");
    cuda_check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device),
               "describe a device");
    return static_cast<unsigned>(count);
}

// Starts a kernel for jobs of one round: a block for each, or, where they stay, for each multiprocessor.
template <class Shared, class Kernel>
void launch_jobs(const Stream<Cuda>& stream, const AttentionWork& work, bool stay,
                 const Kernel& kernel) {
    constexpr std::size_t alignment = 1024;
    constexpr std::size_t counter_place = std::size_t{1} << 20U;  // tiles are before it
    static_assert(counter_place + sizeof(unsigned) <= CudaStream::workspace_bytes);
    auto* const taken = reinterpret_cast<unsigned*>(
        static_cast<unsigned char*>(stream.workspace()) + counter_place);
    auto blocks = static_cast<unsigned>(work.count) * static_cast<unsigned>(work.heads);
    if (stay) {
        clear_bytes(stream, taken, sizeof *taken);
        blocks = std::min(blocks, multiprocessors());
    }
    kernel(Grid{dim3(blocks), dim3(backward_threads), sizeof(Shared) + alignment},
           BackwardJobs{work, stay ? taken : nullptr});
}

}  // namespace longlora::hopper
