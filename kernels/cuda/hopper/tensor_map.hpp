#pragma once

#include <cstdint>

#include "core/device.hpp"
#include "core/view.hpp"

// Where TMA finds heads in a matrix (rows, heads * D): a tensor with three dimensions, 64 columns,
// rows, and blocks of 64 columns, from which it copies boxes of {64, `rows`, D / 64} elements into
// shared memory. A box lands as [D / 64][rows][64], 128 bytes a row, the 16-byte chunks of row r
// exchanged by XOR with r % 8 ("128B swizzle"). Rows beyond the matrix arrive as zeros.
namespace longlora::hopper {

// The driver's CUtensorMap; a kernel takes it as a `const __grid_constant__` parameter.
struct alignas(128) TensorMap {
    std::uint64_t words[16];
};

constexpr int block_columns = 64;  // 128 bytes of bfloat16

struct Box {
    int rows;    // at most 256
    int blocks;  // of 64 columns
};

// False where TMA cannot read such a matrix: address or pitch no multiple of 16 bytes, columns no
// multiple of 64, or a driver without TMA.
bool make_tensor_map(View<Cuda, const BFloat16, 2> matrix, const Box& box, TensorMap& map);

}  // namespace longlora::hopper
