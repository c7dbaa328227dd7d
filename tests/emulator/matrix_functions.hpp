#pragma once

#include <cstdint>

// What a warp does with matrices; kernels/cuda/machine.cuh says which lane holds what.
namespace longlora::emulator {

void load_matrices(std::uint32_t (&r)[4], const void* row, bool is_transposed);
// Hopper's; the address of each row counts as written by the lane that gives it.
void store_matrices(void* row, const std::uint32_t (&r)[4], bool is_transposed);
void multiply_add(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1);

}  // namespace longlora::emulator
