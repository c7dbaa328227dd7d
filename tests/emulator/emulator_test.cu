#include <cmath>
#include <cstdint>
#include <kernels/cuda/machine.cuh>  // from the include path: not what lies beside this file
#include <limits>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "core/bfloat16.hpp"
#include "core/random.hpp"
#include "emulator/device_array.cuh"

// What kernels rely on. Built by nvcc it shows on a GPU whether the emulator behaves as one does;
// only what would hang or spoil a GPU is left out there.

using namespace longlora;

namespace {

// ---- threads of a block ----

__global__ void block_sum_kernel(const float* x, float* sums) {
    __shared__ float of_warp[32];
    float sum = x[blockIdx.x * blockDim.x + threadIdx.x];
    for (int distance = 16; distance > 0; distance /= 2) {
        sum += __shfl_xor_sync(0xFFFFFFFFU, sum, distance);
    }
    if (threadIdx.x % 32 == 0) {
        of_warp[threadIdx.x / 32] = sum;
    }
    __syncthreads();
    if (threadIdx.x < 32) {
        sum = threadIdx.x < blockDim.x / 32 ? of_warp[threadIdx.x] : 0.0F;
        for (int distance = 16; distance > 0; distance /= 2) {
            sum += __shfl_down_sync(0xFFFFFFFFU, sum, static_cast<unsigned>(distance));
        }
        if (threadIdx.x == 0) {
            sums[blockIdx.x] = sum;
        }
    }
}

// Each round, a thread reads what its neighbour wrote; threads from `live` on end at once.
__global__ void rotate_kernel(int* values, int live, int rounds) {
    int* const shared = reinterpret_cast<int*>(machine::dynamic_shared());
    const int i = static_cast<int>(threadIdx.y * blockDim.x + threadIdx.x);
    if (i >= live) {
        return;
    }
    int value = values[i];
    for (int round = 0; round < rounds; ++round) {
        shared[i] = value;
        __syncthreads();
        value = shared[(i + 1) % live];
        __syncthreads();
    }
    values[i] = value;
}

struct Votes {
    unsigned ballot;
    int any;
    int all;
    int count;
    int shuffled;
    int up;
    long long wide;
    int sum;
};
// The upper lanes of the last warp are not there.
__global__ void vote_kernel(Votes* votes) {
    const int i = static_cast<int>(threadIdx.x);
    const unsigned all = 0xFFFFFFFFU;
    Votes& mine = votes[i];
    mine.count = __syncthreads_count(i % 3 == 0);
    mine.ballot = __ballot_sync(all, i % 2);
    mine.any = __any_sync(all, i == 33);
    mine.all = __all_sync(all, i >= 32);
    mine.shuffled = __shfl_sync(all, i, 5, 8);
    mine.up = __shfl_up_sync(all, i, 2, 16);
    mine.wide = __shfl_xor_sync(all, (1LL << 40) + i, 1);
    mine.sum = 0;
    if (i % 32 < 16) {
        for (int step = 0; step < 16; ++step) {
            mine.sum += __shfl_sync(0xFFFFU, i, step);
        }
    }
}

__global__ void atomic_kernel(unsigned long long* sum, int* maximum) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    atomicAdd(sum, static_cast<unsigned long long>(i));
    atomicMax(maximum, static_cast<int>(i * 7919U % 1000U));
}

// ---- the machine ----

__global__ void shared_is_aligned_kernel(unsigned* rest) {
    *rest = static_cast<unsigned>(reinterpret_cast<std::uintptr_t>(machine::dynamic_shared()) % 16);
}

// Two groups of copies; out gets what is there after each wait, 16 bytes a thread and group.
__global__ void copy_kernel(const uint4* from, uint4* out, int bytes) {
    uint4* const shared = reinterpret_cast<uint4*>(machine::dynamic_shared());
    const unsigned n = blockDim.x;
    const unsigned i = threadIdx.x;
    machine::copy_async(shared + i, from + i, bytes);
    machine::commit_copies();
    machine::copy_async(shared + n + i, from + n + i, 16);
    machine::commit_copies();
    machine::wait_for_copies<1>();
    __syncthreads();
    out[i] = shared[(i + 1) % n];
    machine::wait_for_copies<0>();
    __syncthreads();
    out[n + i] = shared[n + (i + 1) % n];
}

// Row i of matrix m holds 64 m + 8 i + column.
__global__ void load_kernel(std::uint32_t* out, bool is_transposed) {
    auto* const shared = reinterpret_cast<std::uint16_t*>(machine::dynamic_shared());
    for (unsigned i = 0; i < 8; ++i) {
        shared[8 * threadIdx.x + i] = static_cast<std::uint16_t>(8 * threadIdx.x + i);
    }
    __syncwarp();
    std::uint32_t r[4];
    if (is_transposed) {
        machine::load_matrices_transposed(r, shared + 8 * threadIdx.x);
    } else {
        machine::load_matrices(r, shared + 8 * threadIdx.x);
    }
    for (unsigned m = 0; m < 4; ++m) {
        out[4 * threadIdx.x + m] = r[m];
    }
}

// c (16, 8) += a (16, 16) b (16, 8), all by rows.
__global__ void multiply_kernel(const float* a, const float* b, float* c) {
    const unsigned g = threadIdx.x / 4;
    const unsigned t = threadIdx.x % 4;
    const auto pair_of_a = [&](unsigned row, unsigned column) {
        return machine::pack(a[16 * row + column], a[16 * row + column + 1]);
    };
    const auto pair_of_b = [&](unsigned row, unsigned column) {
        return machine::pack(b[8 * row + column], b[8 * (row + 1) + column]);
    };
    const std::uint32_t fragment[4] = {pair_of_a(g, 2 * t), pair_of_a(g + 8, 2 * t),
                                       pair_of_a(g, 2 * t + 8), pair_of_a(g + 8, 2 * t + 8)};
    float* const upper = c + 8 * g + 2 * t;
    float* const lower = upper + 64;
    float sums[4] = {upper[0], upper[1], lower[0], lower[1]};
    machine::multiply_add(sums, fragment, pair_of_b(2 * t, g), pair_of_b(2 * t + 8, g));
    upper[0] = sums[0];
    upper[1] = sums[1];
    lower[0] = sums[2];
    lower[1] = sums[3];
}

__global__ void pack_kernel(const float* x, std::uint32_t* packed, float* powers, int count) {
    for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) {
        packed[i] = machine::pack(x[i], -x[i]);
        powers[i] = machine::exp2_fast(x[i]);
    }
}

}  // namespace

BOOST_AUTO_TEST_SUITE(emulator_test)

BOOST_AUTO_TEST_CASE(sums_of_blocks) {
    in_any_order([] {
        const Array<float> x(count_up<float>(4 * 256));
        const Array<float> sums(4);
        run(block_sum_kernel, {dim3(4), dim3(256)}, x.data(), sums.data());
        const auto result = sums.values();
        for (std::size_t block = 0; block < 4; ++block) {
            const auto first = static_cast<float>(256 * block);
            BOOST_TEST(result[block] == 256 * first + 255 * 128);
        }
    });
}

BOOST_AUTO_TEST_CASE(barriers_among_warps_and_ended_threads) {
    in_any_order([] {
        for (const int live : {1, 31, 33, 96, 250, 256}) {
            const Array<int> values(count_up<int>(256));
            run(rotate_kernel, {dim3(1), dim3(16, 16), 256 * sizeof(int)}, values.data(), live, 7);
            const auto result = values.values();
            for (int i = 0; i < 256; ++i) {
                BOOST_TEST(result[static_cast<std::size_t>(i)] == (i < live ? (i + 7) % live : i));
            }
        }
    });
}

BOOST_AUTO_TEST_CASE(votes_and_shuffles) {
    constexpr int threads = 40;
    in_any_order([] {
        const Array<Votes> votes(threads);
        run(vote_kernel, {dim3(1), dim3(threads)}, votes.data());
        const auto result = votes.values();
        for (int i = 0; i < threads; ++i) {
            const Votes& mine = result[static_cast<std::size_t>(i)];
            const int warp = i / 32;
            BOOST_TEST(mine.count == 14);
            BOOST_TEST(mine.ballot == (warp == 0 ? 0xAAAAAAAAU : 0xAAU));
            BOOST_TEST(mine.any == warp);
            BOOST_TEST(mine.all == warp);
            BOOST_TEST(mine.shuffled == i / 8 * 8 + 5);
            BOOST_TEST(mine.up == (i % 16 < 2 ? i : i - 2));
            BOOST_TEST(mine.wide == (1LL << 40) + (i ^ 1));
            if (i < 16) {
                BOOST_TEST(mine.sum == 120);
            }
        }
    });
}

BOOST_AUTO_TEST_CASE(atomic_operations) {
    in_any_order([] {
        constexpr std::size_t threads = 8 * 128;
        const Array<unsigned long long> sum(std::vector<unsigned long long>{0});
        const Array<int> maximum(std::vector<int>{-1});
        run(atomic_kernel, {dim3(8), dim3(128)}, sum.data(), maximum.data());
        BOOST_TEST(sum.values()[0] == threads * (threads - 1) / 2);
        BOOST_TEST(maximum.values()[0] == 999);
    });
}

BOOST_AUTO_TEST_CASE(dynamic_shared_memory) {
    const Array<unsigned> rest(1);
    run(shared_is_aligned_kernel, {dim3(1), dim3(1), 64}, rest.data());
    BOOST_TEST(rest.values()[0] == 0U);
    // more than is granted must be asked for, which launch does
    run(shared_is_aligned_kernel, {dim3(1), dim3(1), 100 << 10U}, rest.data());
    BOOST_CHECK_THROW(run(shared_is_aligned_kernel, {dim3(1), dim3(1), 1 << 20U}, rest.data()),
                      Error);
    BOOST_CHECK_THROW(run(shared_is_aligned_kernel, {dim3(1), dim3(1025)}, rest.data()), Error);
    cudaGetLastError();
}

BOOST_AUTO_TEST_CASE(asynchronous_copies) {
    constexpr unsigned n = 64;
    const auto words = count_up<std::uint32_t>(std::size_t{2} * n * 4);
    std::vector<uint4> input(2 * n);
    for (std::size_t i = 0; i < input.size(); ++i) {
        input[i] = uint4{words[4 * i] + 1, words[4 * i + 1] + 1, words[4 * i + 2] + 1,
                         words[4 * i + 3] + 1};
    }
    const Array<uint4> from(input);
    in_any_order([&] {
        for (const int bytes : {0, 4, 8, 16}) {
            const Array<uint4> out(2 * n);
            run(copy_kernel, {dim3(1), dim3(n), 2 * n * sizeof(uint4)}, from.data(), out.data(),
                bytes);
            const auto result = out.values();
            for (std::size_t i = 0; i < n; ++i) {
                const uint4& whole = result[n + i];
                const uint4& expected = input[n + (i + 1) % n];
                BOOST_TEST((whole.x == expected.x && whole.y == expected.y &&
                            whole.z == expected.z && whole.w == expected.w));
                const uint4& cut = result[i];
                const uint4& source = input[(i + 1) % n];
                BOOST_TEST(cut.x == (bytes >= 4 ? source.x : 0));
                BOOST_TEST(cut.y == (bytes >= 8 ? source.y : 0));
                BOOST_TEST(cut.z == (bytes >= 16 ? source.z : 0));
                BOOST_TEST(cut.w == (bytes >= 16 ? source.w : 0));
            }
        }
    });
}

BOOST_AUTO_TEST_CASE(matrices_of_a_warp) {
    for (const bool is_transposed : {false, true}) {
        const Array<std::uint32_t> out(128);
        run(load_kernel, {dim3(1), dim3(32), 512}, out.data(), is_transposed);
        const auto result = out.values();
        for (std::uint32_t lane = 0; lane < 32; ++lane) {
            for (std::uint32_t m = 0; m < 4; ++m) {
                const std::uint32_t major = lane / 4;
                const std::uint32_t minor = 2 * (lane % 4);
                const std::uint32_t low =
                    64 * m + (is_transposed ? 8 * minor + major : 8 * major + minor);
                const std::uint32_t high = low + (is_transposed ? 8 : 1);
                BOOST_TEST(result[4 * lane + m] == (low | high << 16U));
            }
        }
    }
}

BOOST_AUTO_TEST_CASE(products_of_a_warp_are_exact) {
    for (std::uint64_t key = 0; key < 4; ++key) {
        const auto integers = [key](std::uint64_t which, std::size_t size) {
            std::vector<float> result(size);
            for (std::size_t i = 0; i < size; ++i) {
                result[i] =
                    static_cast<float>(std::floor(256 * random_uniform(3 * key + which, i)) - 128);
            }
            return result;
        };
        const auto a = integers(0, 256);
        const auto b = integers(1, 128);
        const auto c = integers(2, 128);
        in_any_order([&] {
            const Array<float> out(c);
            run(multiply_kernel, {dim3(1), dim3(32)}, Array<float>(a).data(),
                Array<float>(b).data(), out.data());
            const auto result = out.values();
            for (std::size_t row = 0; row < 16; ++row) {
                for (std::size_t column = 0; column < 8; ++column) {
                    float sum = c[8 * row + column];
                    for (std::size_t i = 0; i < 16; ++i) {
                        sum += a[16 * row + i] * b[8 * i + column];
                    }
                    BOOST_TEST(result[8 * row + column] == sum);
                }
            }
        });
    }
}

BOOST_AUTO_TEST_CASE(roundings_and_powers) {
    const float infinity = std::numeric_limits<float>::infinity();
    std::vector<float> x{0.0F,        1.0F,       -infinity,     1.00390625F,
                         1.01171875F, 1.0039064F, 3.3895314e38F, -149.5F};
    for (std::uint64_t i = 0; i < 1000; ++i) {
        x.push_back(static_cast<float>(40 * random_uniform(7, i) - 30));
    }
    const auto n = static_cast<int>(x.size());
    const Array<std::uint32_t> packed(x.size());
    const Array<float> powers(x.size());
    run(pack_kernel, {dim3(1), dim3(64)}, Array<float>(x).data(), packed.data(), powers.data(), n);
    const auto pairs = packed.values();
    const auto twos = powers.values();
    for (std::size_t i = 0; i < x.size(); ++i) {
        const std::uint32_t low = to_bfloat16(x[i]).bits;
        const std::uint32_t high = to_bfloat16(-x[i]).bits;
        BOOST_TEST(pairs[i] == (low | high << 16U));
        if (x[i] < 128) {
            const double exact = x[i] < -126 ? 0 : std::exp2(double{x[i]});
            BOOST_TEST(std::abs(twos[i] - exact) <= 0x1p-21 * exact);
        }
    }
    BOOST_TEST(pairs[3] == 0xBF803F80U);  // ties to even: down
    BOOST_TEST(pairs[4] == 0xBF823F82U);  // up
    BOOST_TEST(pairs[5] == 0xBF813F81U);  // beyond the tie
}

BOOST_AUTO_TEST_SUITE_END()
