#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <limits>

#include "emulator.hpp"
#include "matrix_functions.hpp"

// kernels/cuda/machine.cuh in C++: found in its place, since this folder's parent comes first among
// the include paths. The comments there say what the functions do, those here what is checked.
namespace longlora::machine {

// Aligned to 16 bytes and no more; full of NaN at the start of each block.
inline unsigned char* dynamic_shared() { return emulator::dynamic_shared(); }

// What is too small for a normal float is 0.
inline float exp2_fast(float x) {
    const float y = std::exp2(x);
    return y < std::numeric_limits<float>::min() ? 0.0F : y;
}

inline std::uint32_t pack(float low, float high) {
    return emulator::bfloat16_bits(low) | std::uint32_t{emulator::bfloat16_bits(high)} << 16U;
}

// NaN is in `shared` from the call until the wait that covers it.
inline void copy_async(void* shared, const void* global, int bytes) {
    emulator::queue_copy(shared, global, bytes);
}
inline void commit_copies() { emulator::close_copies(); }
template <int pending>
inline void wait_for_copies() {
    static_assert(pending >= 0);
    emulator::finish_copies(pending);
}

// Rows must be aligned to 16 bytes, in shared memory, and no lane may have ended.
inline void load_matrices(std::uint32_t (&r)[4], const void* row) {
    emulator::load_matrices(r, row, false);
}
inline void load_matrices_transposed(std::uint32_t (&r)[4], const void* row) {
    emulator::load_matrices(r, row, true);
}

// Products of 16 are summed in float, in order, and added to c.
inline void multiply_add(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                         std::uint32_t b1) {
    emulator::multiply_add(c, a, b0, b1);
}

}  // namespace longlora::machine
