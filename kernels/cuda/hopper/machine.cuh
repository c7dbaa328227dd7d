#pragma once

#include <cstdint>

#include "kernels/cuda/hopper/tensor_map.hpp"
#include "kernels/cuda/machine.cuh"

// What Hopper (sm_90a) has beyond kernels/cuda/machine.cuh: barriers in memory, copies by the tensor
// memory accelerator (TMA), asynchronous products of a warpgroup (wgmma, 128 threads), registers that
// move between warpgroups. tests/emulator has the same functions in plain C++; nothing else in
// kernels/cuda/hopper may hold inline assembly. All shared addresses are ordinary pointers.
//
// Tiles in shared memory are as TMA leaves them: [columns / 64][rows][64] of bfloat16, 128 bytes a row,
// from a multiple of 1,024 bytes on, the 16-byte chunk c of row r at place c ^ (r % 8).
namespace longlora::machine {

using hopper::TensorMap;

__device__ inline std::uint32_t shared_address(const void* shared) {
    return static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
}

// The launch's shared memory from its first multiple of 1,024 bytes on: ask for 1,024 bytes more.
__device__ inline unsigned char* aligned_shared() {
    unsigned char* const first = dynamic_shared();
    return first + (1024U - shared_address(first) % 1024U) % 1024U;
}

// ---- Barriers in shared memory (mbarrier). A barrier's phases alternate between parity 0 and 1; a phase
// ends when `arrivals` have come and all expected bytes have landed.

using Barrier = std::uint64_t;

__device__ inline void init_barrier(Barrier* barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
                 "r"(arrivals)
                 : "memory");
}
// By the thread that has initialised them, before the __syncthreads() after which they are used.
__device__ inline void publish_barriers() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ inline void arrive(Barrier* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier))
                 : "memory");
}
// Arrives, and lets the phase wait for so many more bytes.
__device__ inline void arrive_expecting(Barrier* barrier, int bytes) {
    asm volatile(
        "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
        "r"(bytes)
        : "memory");
}
// Until the phase of this parity has ended. A new barrier is in its phase of parity 0, so that to wait
// for parity 1 returns at once.
__device__ inline void wait(const Barrier* barrier, int parity) {
    const std::uint32_t address = shared_address(barrier);
    std::uint32_t has_ended = 0;
    while (has_ended == 0) {
        asm volatile(
            "{\n.reg .pred ended;\n"
            "mbarrier.try_wait.parity.shared::cta.b64 ended, [%1], %2;\n"
            "selp.u32 %0, 1, 0, ended;\n}"
            : "=r"(has_ended)
            : "r"(address), "r"(parity)
            : "memory");
    }
}

// Named barriers of a block, 1 to 15 (0 is __syncthreads()): `threads`, a multiple of 32, counts those
// that synchronise and those that only arrive.
__device__ inline void sync_threads(int barrier, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}
__device__ inline void arrive_threads(int barrier, int threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

// ---- Copies into shared memory that end by bytes of a barrier; one thread starts them.

// The map's box from element {0, row, block} on; `shared` at a multiple of 1,024 bytes. All bytes of the
// box are counted, also of rows that are not there.
__device__ inline void copy_box(void* shared, const TensorMap& map, int row, int block,
                                Barrier* barrier) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%3, %4, %5}], [%2];" ::"r"(shared_address(shared)),
        "l"(&map), "r"(shared_address(barrier)), "r"(0), "r"(row), "r"(block)
        : "memory");
}
// `bytes` in a row; all three are multiples of 16.
__device__ inline void copy_bytes(void* shared, const void* global, int bytes, Barrier* barrier) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, "
        "[%3];" ::"r"(shared_address(shared)),
        "l"(global), "r"(bytes), "r"(shared_address(barrier))
        : "memory");
}
__device__ inline void prefetch(const TensorMap& map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// What this thread has written to shared memory (or read there) comes before what products and copies
// read (or write) there after the next barrier.
__device__ inline void fence_shared() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Four 8 x 8 matrices of 16-bit elements into shared memory, the inverse of load_matrices: lane 8 m + i
// gives the address of row i of matrix m (16 bytes); register m of lane l holds row l / 4, columns
// 2 (l % 4) and the next.
__device__ inline void store_matrices(void* row, const std::uint32_t (&r)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                     shared_address(row)),
                 "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
                 : "memory");
}
// The same, each matrix transposed: register m of lane l holds rows 2 (l % 4) and the next, column l / 4.
__device__ inline void store_matrices_transposed(void* row, const std::uint32_t (&r)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                     shared_address(row)),
                 "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
                 : "memory");
}

// ---- Registers: of 128 threads each, in steps of 8, between 24 and 256; the kernel needs
// __launch_bounds__(threads, 1). All warps of a warpgroup call it.

template <int registers>
__device__ inline void keep_registers() {  // gives back those above
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(registers));
}
template <int registers>
__device__ inline void take_registers() {  // waits for them
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(registers));
}

// ---- Products of a warpgroup: c += a b, 64 rows of c in the 128 threads' registers.
//
// Thread t (of 128) holds c[i] = c(16 (t / 32) + (t % 32) / 4 + 8 ((i / 2) % 2), 8 (i / 4) + 2 (t % 4) + i % 2).
// Left operands in registers are packed like this too: a step's 16 columns are those of c[8 k .. 8 k + 7],
// a[j] = pack(c[8 k + 2 j], c[8 k + 2 j + 1]).
//
// Between fence_products() and the end of wait_for_products() nothing may touch c or the registers of a.
// To be issued after a branch (a wait is one), products need a fence_products() of their own.

// An operand in shared memory, as wgmma takes it.
using Operand = std::uint64_t;

// Which index of an operand has neighbouring elements: the sum's, or that of its rows (a) or columns (b).
enum class Major { sum = 0, outer = 1 };

// `tile` begins in one of the tile's blocks of 64 columns, at a multiple of 8 rows; block_bytes = 128 rows
// of the whole tile. A step of 16 of the sum's index further is advance(operand, 32) within a block where
// neighbours are of the sum (four steps, then the next block: advance(operand, block_bytes)), and
// advance(operand, 2048), 16 rows, where they are not: then a product n wide reads n / 64 blocks.
__device__ inline Operand make_operand(const void* tile, int block_bytes) {
    constexpr std::uint64_t swizzle_128 = std::uint64_t{1} << 62U;
    constexpr std::uint64_t eight_rows = std::uint64_t{1024U >> 4U} << 32U;
    const std::uint64_t first = (shared_address(tile) & 0x3FFFFU) >> 4U;
    return swizzle_128 | eight_rows |
           std::uint64_t(static_cast<unsigned>(block_bytes) >> 4U) << 16U | first;
}
__device__ inline Operand advance(Operand operand, int bytes) {
    return operand + (static_cast<unsigned>(bytes) >> 4U);
}

// Before the first product, and after ordinary instructions have touched c or registers of a.
__device__ inline void fence_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void commit_products() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Until at most `pending` of the committed groups are under way. Then tie() what they have computed.
template <int pending>
__device__ inline void wait_for_products() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}
// Keeps the compiler from reading (or moving) c before the wait above.
template <int count>
__device__ inline void tie(float (&c)[count]) {
#pragma unroll
    for (int i = 0; i < count; ++i) {
        asm volatile("" : "+f"(c[i])::"memory");
    }
}
template <int count>
__device__ inline void tie(std::uint32_t (&a)[count]) {
#pragma unroll
    for (int i = 0; i < count; ++i) {
        asm volatile("" : "+r"(a[i])::"memory");
    }
}

#define LONGLORA_8(c, i)                                                                        \
    "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3]), "+f"(c[i + 4]), "+f"(c[i + 5]), \
        "+f"(c[i + 6]), "+f"(c[i + 7])
#define LONGLORA_32(c, i) \
    LONGLORA_8(c, i), LONGLORA_8(c, i + 8), LONGLORA_8(c, i + 16), LONGLORA_8(c, i + 24)
#define LONGLORA_C32                                                          \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
#define LONGLORA_C64                                                                   \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "          \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "

// c (64, 64) += a (64, 16) b (16, 64), or c = a b where it does not accumulate. `a` has its neighbours in
// `left`, `b` in `right`.
template <Major left, Major right>
__device__ inline void multiply_async(float (&c)[32], Operand a, Operand b, bool accumulates) {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %34, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " LONGLORA_C32
        "%32, %33, add, 1, 1, %35, %36;\n}"
        : LONGLORA_32(c, 0)
        : "l"(a), "l"(b), "r"(int{accumulates}), "n"(static_cast<int>(left)),
          "n"(static_cast<int>(right)));
}
// The left operand in registers.
template <Major right>
__device__ inline void multiply_async(float (&c)[32], const std::uint32_t (&a)[4], Operand b,
                                      bool accumulates) {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %37, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " LONGLORA_C32
        "{%32, %33, %34, %35}, %36, add, 1, 1, %38;\n}"
        : LONGLORA_32(c, 0)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int{accumulates}),
          "n"(static_cast<int>(right)));
}
// c (64, 128) += a (64, 16) b (16, 128).
template <Major left, Major right>
__device__ inline void multiply_async(float (&c)[64], Operand a, Operand b, bool accumulates) {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %66, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " LONGLORA_C64
        "%64, %65, add, 1, 1, %67, %68;\n}"
        : LONGLORA_32(c, 0), LONGLORA_32(c, 32)
        : "l"(a), "l"(b), "r"(int{accumulates}), "n"(static_cast<int>(left)),
          "n"(static_cast<int>(right)));
}
template <Major right>
__device__ inline void multiply_async(float (&c)[64], const std::uint32_t (&a)[4], Operand b,
                                      bool accumulates) {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %69, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " LONGLORA_C64
        "{%64, %65, %66, %67}, %68, add, 1, 1, %70;\n}"
        : LONGLORA_32(c, 0), LONGLORA_32(c, 32)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int{accumulates}),
          "n"(static_cast<int>(right)));
}

#undef LONGLORA_C64
#undef LONGLORA_C32
#undef LONGLORA_32
#undef LONGLORA_8

}  // namespace longlora::machine
