#pragma once

#include "kernels/cuda/hopper/machine.cuh"
#include "kernels/cuda/launch.cuh"

// What Hopper's kernels share: warpgroups, rings of stages between the one that fetches and those that
// compute, and where elements are in tiles and in registers.
namespace longlora::hopper {

constexpr int group_threads = 128;
constexpr int group_rows = 64;  // of a product

// The same in all threads of a warp, which the compiler then knows.
__device__ inline int warpgroup() {
    return __shfl_sync(0xFFFFFFFFU, static_cast<int>(threadIdx.x) / group_threads, 0);
}

// Where a thread's elements are among its warpgroup's 64 rows, and in each 8 columns.
struct LanePlace {
    int row;     // and row + 8
    int column;  // and the next

    __device__ LanePlace() {
        const int thread = static_cast<int>(threadIdx.x) % group_threads;
        row = thread / 32 * 16 + thread % 32 / 4;
        column = thread % 4 * 2;
    }
};

// The next stage of a ring, and the parity of the phase in which its data arrive. What waits for a stage
// to be empty waits for the other parity.
template <int stages>
struct Turn {
    int stage = 0;
    int parity = 0;

    __device__ void advance() {
        if (++stage == stages) {
            stage = 0;
            parity ^= 1;
        }
    }
};

// A tile [depth / 64][rows][64] as TMA leaves it.
template <int rows, int depth>
struct TileShape {
    static constexpr int block_bytes = rows * block_columns * 2;
    static constexpr int bytes = depth / block_columns * block_bytes;

    // 8 elements of a row, from column 8 i on.
    __device__ static unsigned char* chunk(unsigned char* tile, int row, int i) {
        return tile + i / 8 * block_bytes + row * 128 + ((i % 8) ^ (row % 8)) * 16;
    }
    // How far apart steps of 16 are in an operand whose neighbours are of the sum.
    static constexpr int step(int k) { return k % 4 * 32 + k / 4 * block_bytes; }
};

}  // namespace longlora::hopper
