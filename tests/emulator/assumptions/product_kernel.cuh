#pragma once

#include "emulator/assumptions/support.cuh"

// One product of one warpgroup, c = a b or c += a b, from tiles that threads have copied to shared
// memory: TMA has no part in it.
namespace longlora {

using machine::Major;

struct Side {
    int bytes;        // of the tile
    int block_bytes;  // of its 64 columns
    int begin;        // where in the tile the operand begins
    int advance;      // and how far it has advanced
};

__device__ inline void copy_tile(unsigned char* to, const uint4* from, int bytes) {
    const int chunks = bytes / static_cast<int>(sizeof(uint4));
    for (int i = static_cast<int>(threadIdx.x); i < chunks; i += static_cast<int>(blockDim.x)) {
        reinterpret_cast<uint4*>(to)[i] = from[i];
    }
}

__device__ inline machine::Operand operand_of(const unsigned char* tile, const Side& side) {
    return machine::advance(machine::make_operand(tile + side.begin, side.block_bytes),
                            side.advance);
}

// The left operand from `a`, 4 registers a thread, or from its tile. c begins as `start` in all registers.
template <bool in_registers, Major left, Major right, int registers>
__global__ void __launch_bounds__(128, 1)
    product_kernel(const uint4* left_tile, Side left_side, const std::uint32_t* a,
                   const uint4* right_tile, Side right_side, float start, bool accumulates,
                   float* out) {
    unsigned char* const left_shared = machine::aligned_shared();
    unsigned char* const right_shared = left_shared + left_side.bytes;
    copy_tile(left_shared, left_tile, left_side.bytes);
    copy_tile(right_shared, right_tile, right_side.bytes);
    float c[registers];
    for (float& x : c) {
        x = start;
    }
    std::uint32_t fragment[4];
    for (unsigned j = 0; j < 4; ++j) {
        fragment[j] = a[4 * threadIdx.x + j];
    }
    machine::fence_shared();
    __syncthreads();

    [[maybe_unused]] const machine::Operand left_operand = operand_of(left_shared, left_side);
    const machine::Operand right_operand = operand_of(right_shared, right_side);
    machine::fence_products();
    if constexpr (in_registers) {
        machine::multiply_async<right>(c, fragment, right_operand, accumulates);
    } else {
        machine::multiply_async<left, right>(c, left_operand, right_operand, accumulates);
    }
    machine::commit_products();
    machine::wait_for_products<0>();
    machine::tie(c);
    for (int i = 0; i < registers; ++i) {
        out[static_cast<int>(threadIdx.x) * registers + i] = c[i];
    }
}

struct Tile {
    std::vector<BFloat16> elements;
    int rows;

    int bytes() const { return static_cast<int>(2 * elements.size()); }
    int block_bytes() const { return 128 * rows; }
};

template <class Value>
Tile tile_of(int rows, int columns, const Value& value) {
    return {make_tile(rows, columns, value), rows};
}

// The registers of the left operand whose elements are value(row, step).
template <class Value>
std::vector<std::uint32_t> fragments_of(const Value& value) {
    std::vector<std::uint32_t> a(512);
    for (int t = 0; t < 128; ++t) {
        for (int j = 0; j < 4; ++j) {
            const auto [row, step] = place_in_c(t, 2 * j);
            const std::uint32_t low = to_bfloat16(static_cast<float>(value(row, step))).bits;
            const std::uint32_t high = to_bfloat16(static_cast<float>(value(row, step + 1))).bits;
            a[static_cast<std::size_t>(4 * t + j)] = low | high << 16U;
        }
    }
    return a;
}

struct Start {
    float value = -7;
    bool accumulates = false;
};

// c's registers; the left operand from `a`.
template <Major right, int registers>
std::vector<float> multiply(const std::vector<std::uint32_t>& a, const Tile& b, int begin,
                            int advance, const Start& start = {}) {
    const Array<std::uint32_t> fragments(a);
    const Array<BFloat16> tile(b.elements);
    const Array<float> out(std::size_t{128} * registers);
    run_block(product_kernel<true, Major::sum, right, registers>, 128,
              static_cast<std::size_t>(b.bytes()), static_cast<const uint4*>(nullptr), Side{},
              fragments.data(), reinterpret_cast<const uint4*>(tile.data()),
              Side{b.bytes(), b.block_bytes(), begin, advance}, start.value, start.accumulates,
              out.data());
    return out.values();
}

// The same with the left operand in shared memory; the right one from its tile's start.
template <Major left, Major right, int registers>
std::vector<float> multiply(const Tile& a, int begin, int advance, const Tile& b) {
    const Array<std::uint32_t> unused(std::vector<std::uint32_t>(512));
    const Array<BFloat16> left_tile(a.elements);
    const Array<BFloat16> right_tile(b.elements);
    const Array<float> out(std::size_t{128} * registers);
    run_block(product_kernel<false, left, right, registers>, 128,
              static_cast<std::size_t>(a.bytes() + b.bytes()),
              reinterpret_cast<const uint4*>(left_tile.data()),
              Side{a.bytes(), a.block_bytes(), begin, advance}, unused.data(),
              reinterpret_cast<const uint4*>(right_tile.data()),
              Side{b.bytes(), b.block_bytes(), 0, 0}, -7.0F, false, out.data());
    return out.values();
}

}  // namespace longlora
