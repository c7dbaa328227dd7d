#pragma once

#include <cstdint>
#include <type_traits>

#include "bulk_copy.hpp"
#include "hopper.hpp"
#include "kernels/cuda/hopper/tensor_map.hpp"
#include "kernels/cuda/machine.cuh"

// kernels/cuda/hopper/machine.cuh in C++: found in its place, as kernels/cuda/machine.cuh is. The
// comments there say what the functions do, those here what is checked and what differs.
namespace longlora::machine {

using hopper::TensorMap;

// Only of dynamic shared memory.
inline std::uint32_t shared_address(const void* shared) {
    if (!emulator::scheduler.shared().contains_dynamic(shared, 1)) {
        emulator::fail("the shared address of what is not in dynamic shared memory");
    }
    return emulator::scheduler.shared().address(shared);
}

inline unsigned char* aligned_shared() {
    unsigned char* const first = dynamic_shared();
    return first + (1024U - shared_address(first) % 1024U) % 1024U;
}

// ---- Barriers: initialised once, published before others use them, their 8 bytes not overwritten. A
// wait that can never end is a deadlock, whose message says what the barrier lacks.

using Barrier = std::uint64_t;

inline void init_barrier(Barrier* barrier, int arrivals) {
    emulator::hopper.barriers.init(barrier, arrivals);
}
inline void publish_barriers() { emulator::hopper.barriers.publish(); }
inline void arrive(Barrier* barrier) { emulator::hopper.barriers.arrive(barrier); }
inline void arrive_expecting(Barrier* barrier, int bytes) {
    emulator::hopper.barriers.arrive_expecting(barrier, bytes);
}
inline void wait(const Barrier* barrier, int parity) {
    emulator::hopper.barriers.wait(barrier, parity);
}

// All that come to a barrier must give the same number of threads, each of them once.
inline void sync_threads(int barrier, int threads) {
    emulator::hopper.named_barriers.sync(barrier, threads);
}
inline void arrive_threads(int barrier, int threads) {
    emulator::hopper.named_barriers.arrive(barrier, threads);
}

// ---- Copies: NaN is in `shared` from the call until the copy lands, as late as can be or, with a seed,
// at any time. No other copy may be under way there; blocks must be the tensor's.

inline void copy_box(void* shared, const TensorMap& map, int row, int block, Barrier* barrier) {
    emulator::copy_box(shared, &map, row, block, barrier);
}
inline void copy_bytes(void* shared, const void* global, int bytes, Barrier* barrier) {
    emulator::copy_bytes(shared, global, bytes, barrier);
}
inline void prefetch(const TensorMap&) {}

// Checked between store_matrices and products that read what it has written; ordinary writes are not.
inline void fence_shared() { emulator::hopper.writes.fence(emulator::scheduler.thread()); }

// Rows as those of load_matrices.
inline void store_matrices(void* row, const std::uint32_t (&r)[4]) {
    emulator::store_matrices(row, r, false);
}
inline void store_matrices_transposed(void* row, const std::uint32_t (&r)[4]) {
    emulator::store_matrices(row, r, true);
}

// At once.
inline void add_to_memory(float* at, float x, float y) {
    if (reinterpret_cast<std::uintptr_t>(at) % (2 * sizeof(float)) != 0) {
        emulator::fail("add_to_memory: the address is no multiple of 8");
    }
    at[0] += x;
    at[1] += y;
}

// ---- Registers: at the end of the block all warps of a warpgroup must have as many, and all together
// not more than there are.

template <int registers>
inline void keep_registers() {
    static_assert(registers % 8 == 0 && registers >= 24 && registers <= 256);
    emulator::hopper.registers.set(registers, false);
}
template <int registers>
inline void take_registers() {
    static_assert(registers % 8 == 0 && registers >= 24 && registers <= 256);
    emulator::hopper.registers.set(registers, true);
}

// ---- Products: c is NaN from the issue until a wait that covers it. Operands in shared memory are read
// as late as that or, with a seed, at any time before; registers of a at the issue. All 128 threads must issue the
// same, after a fence_products() that follows the latest wait. Each step of 16 is summed in float, in
// order, and added to c.

using Operand = std::uint64_t;

enum class Major { sum = 0, outer = 1 };

inline Operand make_operand(const void* tile, int block_bytes) {
    constexpr std::uint64_t swizzle_128 = std::uint64_t{1} << 62U;
    constexpr std::uint64_t eight_rows = std::uint64_t{1024U >> 4U} << 32U;
    const std::uint64_t first = (shared_address(tile) & 0x3FFFFU) >> 4U;
    return swizzle_128 | eight_rows |
           std::uint64_t(static_cast<unsigned>(block_bytes) >> 4U) << 16U | first;
}
inline Operand advance(Operand operand, int bytes) {
    return operand + (static_cast<unsigned>(bytes) >> 4U);
}

inline void fence_products() { emulator::warpgroup().fence(); }
inline void commit_products() { emulator::warpgroup().commit(); }
template <int pending>
inline void wait_for_products() {
    static_assert(pending >= 0);
    emulator::warpgroup().wait(pending);
}
template <class T, int count>
inline void tie(T (&)[count]) {
    static_assert(std::is_same_v<T, float> || std::is_same_v<T, std::uint32_t>);
}

template <Major left, Major right, int count>
    requires(count == 32 || count == 64)
inline void multiply_async(float (&c)[count], Operand a, Operand b, bool accumulates) {
    constexpr int rows = 64;
    emulator::warpgroup().issue(
        {{a, left == Major::outer, rows}, {b, right == Major::outer, 2 * count}, accumulates}, c,
        nullptr);
}
template <Major right, int count>
    requires(count == 32 || count == 64)
inline void multiply_async(float (&c)[count], const std::uint32_t (&a)[4], Operand b,
                           bool accumulates) {
    emulator::warpgroup().issue({{}, {b, right == Major::outer, 2 * count}, accumulates}, c, a);
}

}  // namespace longlora::machine
