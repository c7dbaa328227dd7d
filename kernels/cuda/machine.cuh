#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

// What the machine has and C++ has not. tests/emulator has the same functions in plain C++, so that
// kernels run on a CPU, too; nothing else in kernels/cuda may hold inline assembly.
namespace longlora::machine {

// Shared memory whose size the launch decides; aligned to 16 bytes.
__device__ inline unsigned char* dynamic_shared() {
    extern __shared__ uint4 longlora_dynamic_shared[];
    return reinterpret_cast<unsigned char*>(longlora_dynamic_shared);
}

// 2^x, some 2 ulp; 0 for -infinity.
__device__ inline float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Two bfloat16, `low` in the lower half.
__device__ inline std::uint32_t pack(float low, float high) {
    std::uint32_t packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

// Starts to copy 16 bytes into shared memory, both addresses aligned to 16; only the first `bytes`
// (0 to 16) are read, the rest becomes 0.
__device__ inline void copy_async(void* shared, const void* global, int bytes) {
    const auto to = static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes)
                 : "memory");
}
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until at most `pending` of the committed groups of this thread are under way. Other threads see
// the data after a __syncthreads().
template <int pending>
__device__ inline void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// Four 8 x 8 matrices of 16-bit elements: lane 8 m + i gives the address of row i of matrix m (16
// bytes); register m of lane l receives row l / 4, columns 2 (l % 4) and the next.
__device__ inline void load_matrices(std::uint32_t (&r)[4], const void* row) {
    const auto from = static_cast<std::uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(from)
                 : "memory");
}
// The same, each matrix transposed: row 2 (l % 4) and the next, column l / 4.
__device__ inline void load_matrices_transposed(std::uint32_t (&r)[4], const void* row) {
    const auto from = static_cast<std::uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(from)
                 : "memory");
}

// c += a b, by one warp: a (16, 16), b (16, 8), c (16, 8); bfloat16, sums in float. With g = lane / 4
// and t = lane % 4: a[0] (g, 2t), a[1] (g + 8, 2t), a[2] (g, 2t + 8), a[3] (g + 8, 2t + 8), and the next
// column each; b[0] (2t, g), b[1] (2t + 8, g), and the next row; c[0], c[1] (g, 2t), (g, 2t + 1),
// c[2], c[3] (g + 8, ...).
__device__ inline void multiply_add(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                    std::uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace longlora::machine
