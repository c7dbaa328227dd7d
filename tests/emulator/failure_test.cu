#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "core/pinned_memory.hpp"
#include "core/transfer.hpp"
#include "emulator/device_array.cuh"
#include "kernels/cuda/machine.cuh"

// Faults that a GPU would meet with a hang, wrong values or silence. Only for the emulator.

using namespace longlora;

namespace {

template <class... Arguments>
std::string failure_of(const Arguments&... arguments) {
    try {
        run(arguments...);
    } catch (const emulator::Failure& failure) {
        return failure.what();
    }
    return "none";
}

void expect(const std::string& message, const std::vector<std::string>& parts) {
    for (const std::string& part : parts) {
        BOOST_TEST_CONTEXT(message) { BOOST_TEST((message.find(part) != std::string::npos)); }
    }
}

const Grid one_warp{dim3(1), dim3(32), 1024};

__global__ void fill_kernel(int* out) { out[threadIdx.x] = static_cast<int>(threadIdx.x); }

// In block 1, warp 1 is cut in two.
__global__ void deadlock_kernel(int* out) {
    if (blockIdx.x == 1 && threadIdx.x >= 40) {
        *out = __shfl_sync(0xFFFFFFFFU, 1, 0);
    }
    __syncthreads();
}

__global__ void different_operations_kernel(int* out) {
    *out = threadIdx.x < 16 ? __shfl_sync(0xFFFFFFFFU, 1, 0) : __any_sync(0xFFFFFFFFU, 1);
}

__global__ void not_in_mask_kernel(int* out) { *out = __shfl_sync(0xFFU, 1, 0); }

__global__ void trap_kernel(int trapped) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) == trapped) {
        __trap();
    }
    __syncthreads();
}

__global__ void copy_kernel(const char* from, int shift, int bytes, bool to_local) {
    alignas(16) char local[32];
    char* const shared = reinterpret_cast<char*>(machine::dynamic_shared());
    machine::copy_async(to_local ? local : shared + shift, from, bytes);
}

__global__ void load_kernel(int shift, int lanes) {
    if (static_cast<int>(threadIdx.x) < lanes) {
        std::uint32_t r[4];
        machine::load_matrices(
            r, machine::dynamic_shared() + 16 * threadIdx.x + (threadIdx.x == 5 ? shift : 0));
    }
}

__global__ void early_kernel(const float* from, float* out) {
    const auto* const shared = reinterpret_cast<const float*>(machine::dynamic_shared());
    out[0] = shared[0];
    if (threadIdx.x == 0) {
        machine::copy_async(machine::dynamic_shared(), from, 16);
        machine::commit_copies();
        out[1] = shared[0];
        machine::wait_for_copies<1>();
        out[2] = shared[0];
        machine::wait_for_copies<0>();
        out[3] = shared[0];
    }
}

#if !defined(__SANITIZE_ADDRESS__)  // which would find it first
__global__ void overrun_kernel(int offset) { machine::dynamic_shared()[offset] = 0; }
#endif

// Wrong without a barrier between writing and reading.
__global__ void race_kernel(int* out, bool with_barrier) {
    int* const shared = reinterpret_cast<int*>(machine::dynamic_shared());
    shared[threadIdx.x] = static_cast<int>(threadIdx.x);
    if (with_barrier) {
        __syncthreads();
    }
    out[threadIdx.x] = shared[threadIdx.x / 2];
}

}  // namespace

BOOST_AUTO_TEST_SUITE(emulator_failure_test)

BOOST_AUTO_TEST_CASE(deadlocks_end) {
    const Array<int> out(64);
    in_any_order([&] {
        expect(failure_of(deadlock_kernel, Grid{dim3(3), dim3(64)}, out.data()),
               {"block (1, 0, 0)", "(int*)", "40 wait at __syncthreads",
                "24 wait at __shfl_sync, the first of them (40, 0, 0)", "0 have ended"});
        // and the emulator goes on
        run(fill_kernel, {dim3(1), dim3(64)}, out.data());
        BOOST_TEST(out.values() == count_up<int>(64), boost::test_tools::per_element());
    });
}

BOOST_AUTO_TEST_CASE(lanes_that_do_not_agree) {
    const Array<int> out(1);
    expect(failure_of(different_operations_kernel, one_warp, out.data()),
           {"__any_sync", "__shfl_sync"});
    expect(failure_of(not_in_mask_kernel, one_warp, out.data()),
           {"thread (8, 0, 0)", "not in its own mask"});
    expect(failure_of(load_kernel, one_warp, 0, 20), {"load_matrices", "without lane 20"});
    expect(failure_of(trap_kernel, one_warp, 7), {"thread (7, 0, 0)", "__trap"});
    BOOST_TEST(failure_of(trap_kernel, one_warp, 32) == "none");
    BOOST_CHECK_THROW(__syncthreads(), emulator::Failure);
}

BOOST_AUTO_TEST_CASE(addresses) {
    const Array<char> from(64);
    BOOST_TEST(failure_of(copy_kernel, one_warp, from.data(), 16, 16, false) == "none");
    expect(failure_of(copy_kernel, one_warp, from.data(), 8, 16, false), {"to", "multiple of 16"});
    expect(failure_of(copy_kernel, one_warp, from.data() + 4, 0, 0, false),
           {"from", "multiple of 16"});
    expect(failure_of(copy_kernel, one_warp, from.data(), 0, 17, false), {"17 bytes"});
    expect(failure_of(copy_kernel, one_warp, from.data(), 0, 16, true), {"not shared memory"});
    expect(failure_of(copy_kernel, one_warp, from.data(), 1024, 16, false), {"not shared memory"});
    BOOST_TEST(failure_of(load_kernel, one_warp, 16, 32) == "none");
    expect(failure_of(load_kernel, one_warp, 2, 32), {"lane 5", "multiple of 16"});
    expect(failure_of(load_kernel, one_warp, 1024, 32), {"lane 5", "not in shared memory"});
}

BOOST_AUTO_TEST_CASE(what_is_not_there_yet_is_nan) {
    const Array<float> from(std::vector<float>{1, 2, 3, 4});
    const Array<float> out(5);
    run(early_kernel, {dim3(1), dim3(1), 16}, from.data(), out.data());
    const auto result = out.values();
    BOOST_TEST(std::isnan(result[0]));
    BOOST_TEST(std::isnan(result[1]));
    BOOST_TEST(std::isnan(result[2]));
    BOOST_TEST(result[3] == 1);
    BOOST_TEST(std::isnan(result[4]));
}

#if !defined(__SANITIZE_ADDRESS__)
BOOST_AUTO_TEST_CASE(writing_behind_shared_memory) {
    BOOST_TEST(failure_of(overrun_kernel, Grid{dim3(1), dim3(1), 64}, 63) == "none");
    expect(failure_of(overrun_kernel, Grid{dim3(1), dim3(1), 64}, 64), {"behind", "64 bytes"});
    BOOST_TEST(failure_of(overrun_kernel, Grid{dim3(1), dim3(1), 64}, 0) == "none");
}
#endif

BOOST_AUTO_TEST_CASE(a_race_shows_in_some_order) {
    constexpr std::size_t threads = 64;
    const Array<int> out(threads);
    std::vector<int> expected;
    for (std::size_t i = 0; i < threads; ++i) {
        expected.push_back(static_cast<int>(i / 2));
    }
    int wrong = 0;
    for (std::uint64_t seed = 0; seed < 8; ++seed) {
        emulator::set_order(seed);
        run(race_kernel, {dim3(1), dim3(threads), 4 * threads}, out.data(), false);
        wrong += out.values() != expected ? 1 : 0;
        run(race_kernel, {dim3(1), dim3(threads), 4 * threads}, out.data(), true);
        BOOST_TEST(out.values() == expected, boost::test_tools::per_element());
    }
    emulator::set_order({});
    BOOST_TEST(wrong > 0);
}

// Between the GPU and pinned memory: two streams, one copy after the other.
BOOST_AUTO_TEST_CASE(copies_are_late_for_who_does_not_wait) {
    const CudaStream first;
    const CudaStream second;
    const PinnedMemory pinned(2 * sizeof(float), "test");
    auto* const host = static_cast<float*>(pinned.data());
    const Array<float> there(std::vector<float>{3});
    const Array<float> back(std::vector<float>{0});
    const auto start = [&] {
        copy_async(first, host, there.data(), sizeof(float));
        copy_async(second, back.data(), host, sizeof(float));
    };
    start();
    BOOST_TEST(std::isnan(host[0]));
    BOOST_TEST(std::isnan(back.values()[0]));
    second.synchronize();
    BOOST_TEST(std::isnan(back.values()[0]));  // it has not waited for the first
    first.synchronize();
    BOOST_TEST(host[0] == 3);

    copy_async(first, host, there.data(), sizeof(float));
    second.wait_for(first);
    copy_async(second, back.data(), host, sizeof(float));
    copy_async(first, host + 1, there.data(), sizeof(float));
    second.synchronize();
    BOOST_TEST(back.values()[0] == 3);
    BOOST_TEST(std::isnan(host[1]));  // behind what was waited for
}

BOOST_AUTO_TEST_CASE(copies_that_cuda_refuses) {
    const Array<float> array(4);
    const Array<float> other(4);
    std::vector<float> host(8);
    const auto copy = [](void* to, const void* from, std::size_t floats, cudaMemcpyKind kind) {
        return cudaMemcpy(to, from, floats * sizeof(float), kind) == cudaSuccess;
    };
    BOOST_TEST(copy(array.data(), host.data(), 4, cudaMemcpyHostToDevice));
    BOOST_TEST(!copy(array.data(), host.data(), 5, cudaMemcpyHostToDevice));
    BOOST_TEST(!copy(array.data() + 1, host.data(), 4, cudaMemcpyHostToDevice));
    BOOST_TEST(!copy(host.data(), array.data(), 4, cudaMemcpyHostToDevice));
    BOOST_TEST(!copy(host.data(), host.data() + 4, 4, cudaMemcpyDeviceToHost));
    BOOST_TEST(copy(array.data(), other.data(), 4, cudaMemcpyDeviceToDevice));
    BOOST_TEST(copy(host.data(), array.data() + 3, 1, cudaMemcpyDefault));
    BOOST_TEST((cudaPeekAtLastError() == cudaErrorInvalidValue));
    BOOST_TEST((cudaGetLastError() == cudaErrorInvalidValue));
    BOOST_TEST((cudaGetLastError() == cudaSuccess));
    BOOST_TEST((cudaFree(host.data()) == cudaErrorInvalidValue));
    BOOST_TEST((cudaMemset(host.data(), 0, 4) == cudaErrorInvalidValue));
    void* memory = nullptr;
    BOOST_TEST((cudaMalloc(&memory, std::size_t{1} << 40U) == cudaErrorMemoryAllocation));
    cudaGetLastError();
}

BOOST_AUTO_TEST_SUITE_END()
