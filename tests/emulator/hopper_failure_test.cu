#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "core/device.hpp"
#include "core/view.hpp"
#include "emulator/device_array.cuh"
#include "kernels/cuda/hopper/machine.cuh"

// Faults of kernels for Hopper that a GPU would meet with a hang, wrong values or silence. Only for the
// emulator.

using namespace longlora;
using machine::Barrier;
using machine::Major;

namespace {

struct OnHopper {
    OnHopper() { emulator::set_capability(9, 0); }
    ~OnHopper() {
        emulator::set_capability(8, 0);
        emulator::set_order({});
    }
};

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

constexpr int tile_bytes = 64 * 128;
const Grid one_group{dim3(1), dim3(128), 4 * tile_bytes + 1024};
const Grid two_groups{dim3(1), dim3(256), 4 * tile_bytes + 1024};

// ---- barriers ----

enum class BarrierFault { none, unpublished, overwritten, unknown, again, lacking, early_end };

__global__ void barrier_kernel(BarrierFault fault, const unsigned char* from, float* out) {
    unsigned char* const shared = machine::aligned_shared();
    Barrier* const full = reinterpret_cast<Barrier*>(shared + 1024);
    if (threadIdx.x == 0) {
        machine::init_barrier(full, 1);
        if (fault == BarrierFault::again) {
            machine::init_barrier(full, 2);
        }
        if (fault != BarrierFault::unpublished) {
            machine::publish_barriers();
        }
        if (fault == BarrierFault::overwritten) {
            *full = 0;
        }
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        machine::arrive_expecting(full, fault == BarrierFault::lacking ? 1024 + 48 : 1024);
        machine::copy_bytes(shared, from, 1024, full);
    }
    if (fault != BarrierFault::early_end) {
        machine::wait(full + (fault == BarrierFault::unknown ? 1 : 0), 0);
        out[threadIdx.x] = reinterpret_cast<const float*>(shared)[threadIdx.x];
    }
}

__global__ void early_copy_kernel(const unsigned char* from, float* out) {
    unsigned char* const shared = machine::aligned_shared();
    Barrier* const full = reinterpret_cast<Barrier*>(shared + 1024);
    machine::init_barrier(full, 1);
    machine::publish_barriers();
    *reinterpret_cast<float*>(shared) = 1;
    machine::arrive_expecting(full, 16);
    machine::copy_bytes(shared, from, 16, full);
    out[0] = *reinterpret_cast<const float*>(shared);
    machine::wait(full, 0);
    out[1] = *reinterpret_cast<const float*>(shared);
}

__global__ void named_kernel(int number, int threads, int others, int times) {
    if (threadIdx.x >= 128) {
        machine::sync_threads(number, others);
        return;
    }
    for (int i = 0; i < times; ++i) {
        machine::arrive_threads(number, threads);
    }
}

template <int kept, int taken>
__global__ void registers_kernel(unsigned first) {
    if (threadIdx.x < first) {
        machine::keep_registers<kept>();
    } else {
        machine::take_registers<taken>();
    }
}

// ---- boxes ----

struct BoxFault {
    int shift = 0;
    int block = 0;
    bool is_twice = false;
    bool has_map = true;
};
__global__ void box_kernel(const __grid_constant__ machine::TensorMap map, BoxFault fault) {
    unsigned char* const shared = machine::aligned_shared();
    Barrier* const full = reinterpret_cast<Barrier*>(shared + 2 * tile_bytes);
    if (threadIdx.x == 0) {
        machine::init_barrier(full, 1);
        machine::publish_barriers();
        machine::arrive_expecting(full, fault.is_twice ? 2 * tile_bytes : tile_bytes);
        const machine::TensorMap none{};
        for (int i = 0; i < (fault.is_twice ? 2 : 1); ++i) {
            machine::copy_box(shared + fault.shift, fault.has_map ? map : none, 0, fault.block,
                              full);
        }
        machine::wait(full, 0);
    }
}

// ---- products ----

enum class ProductFault {
    none,
    no_fence,
    no_wait,
    changed,
    other_operands,
    out_of_memory,
    unfenced_store,
    early,
    overwritten
};

// c = a b of ones, 16 everywhere; `fault` says what goes wrong.
__global__ void product_kernel(ProductFault fault, float* out) {
    unsigned char* const shared = machine::aligned_shared();
    auto* const ones = reinterpret_cast<std::uint16_t*>(shared);
    for (int i = static_cast<int>(threadIdx.x); i < tile_bytes / 2; i += 128) {
        ones[i] = 0x3F80;
    }
    if (fault == ProductFault::unfenced_store && threadIdx.x < 32) {
        const std::uint32_t r[4] = {0x3F803F80, 0x3F803F80, 0x3F803F80, 0x3F803F80};
        machine::store_matrices(shared + 16 * threadIdx.x, r);
    } else {
        machine::fence_shared();
    }
    __syncthreads();
    const int away = fault == ProductFault::out_of_memory ? 8 * tile_bytes : 0;
    const bool is_other = fault == ProductFault::other_operands && threadIdx.x == 77;
    const machine::Operand a = machine::make_operand(shared, tile_bytes);
    const machine::Operand b = machine::advance(a, away + (is_other ? 32 : 0));
    float c[32] = {};
    if (fault != ProductFault::no_fence) {
        machine::fence_products();
    }
    machine::multiply_async<Major::sum, Major::sum>(c, a, b, true);
    machine::commit_products();
    c[3] = fault == ProductFault::changed ? 0 : c[3];
    const float early = c[5];
    if (fault == ProductFault::overwritten) {
        __syncthreads();
        ones[threadIdx.x] = 0;
        __syncthreads();
    }
    if (fault != ProductFault::no_wait) {
        machine::wait_for_products<0>();
        machine::tie(c);
    }
    out[threadIdx.x] = fault == ProductFault::early ? early : c[5];
}

// The producer fetches the same tile of ones twice; released before the first product has read it, it is
// overwritten meanwhile.
__global__ void ring_kernel(const unsigned char* from, bool is_too_early, float* out) {
    unsigned char* const shared = machine::aligned_shared();
    Barrier* const full = reinterpret_cast<Barrier*>(shared + tile_bytes);
    Barrier* const empty = full + 1;
    if (threadIdx.x == 0) {
        machine::init_barrier(full, 1);
        machine::init_barrier(empty, 128);
        machine::publish_barriers();
    }
    __syncthreads();
    if (threadIdx.x >= 128) {
        for (int round = 0; round < 2 && threadIdx.x == 128; ++round) {
            machine::wait(empty, round ^ 1);
            machine::arrive_expecting(full, tile_bytes);
            machine::copy_bytes(shared, from, tile_bytes, full);
        }
        return;
    }
    const machine::Operand tile = machine::make_operand(shared, tile_bytes);
    float c[32];
    for (int round = 0; round < 2; ++round) {
        machine::wait(full, round);
        machine::fence_products();
        machine::multiply_async<Major::sum, Major::sum>(c, tile, tile, round > 0);
        machine::commit_products();
        if (is_too_early) {
            machine::arrive(empty);
        }
        machine::wait_for_products<0>();
        machine::tie(c);
        if (!is_too_early) {
            machine::arrive(empty);
        }
    }
    out[threadIdx.x] = c[0];
}

}  // namespace

BOOST_FIXTURE_TEST_SUITE(hopper_failure_test, OnHopper)

BOOST_AUTO_TEST_CASE(barriers_in_memory) {
    const Array<unsigned char> from(std::vector<unsigned char>(1024, 0));
    const Array<float> out(128);
    const auto failure = [&](BarrierFault fault) {
        return failure_of(barrier_kernel, one_group, fault, from.data(), out.data());
    };
    in_any_order([&] {
        BOOST_TEST(failure(BarrierFault::none) == "none");
        expect(failure(BarrierFault::unpublished), {"before publish_barriers"});
        expect(failure(BarrierFault::overwritten), {"was overwritten", "at byte"});
        expect(failure(BarrierFault::unknown), {"wait", "not initialised"});
        expect(failure(BarrierFault::again), {"in use"});
        expect(failure(BarrierFault::lacking), {"can go on", "128 wait at wait of a barrier",
                                                "lacks 0 of 1 arrivals and 48 bytes"});
    });
    expect(failure(BarrierFault::early_end), {"has ended with copies under way"});
}

BOOST_AUTO_TEST_CASE(copies_that_are_not_there_yet) {
    const Array<unsigned char> from(std::vector<unsigned char>(16, 0));
    const Array<float> out(2);
    run(early_copy_kernel, {dim3(1), dim3(1), 4096}, from.data(), out.data());
    BOOST_TEST(std::isnan(out.values()[0]));
    BOOST_TEST(out.values()[1] == 0);
}

BOOST_AUTO_TEST_CASE(barriers_by_number) {
    expect(failure_of(named_kernel, two_groups, 0, 256, 256, 1), {"not 1 to 15"});
    expect(failure_of(named_kernel, two_groups, 1, 200, 200, 1), {"whole warps"});
    expect(failure_of(named_kernel, two_groups, 1, 512, 512, 1), {"whole warps"});
    expect(failure_of(named_kernel, two_groups, 1, 256, 128, 1), {"others have said"});
    expect(failure_of(named_kernel, two_groups, 1, 256, 256, 2), {"a second time"});
    expect(failure_of(named_kernel, two_groups, 1, 256, 256, 0), {"128 wait at sync_threads"});
    BOOST_TEST(failure_of(named_kernel, two_groups, 15, 256, 256, 1) == "none");
}

BOOST_AUTO_TEST_CASE(registers) {
    const Grid grid{dim3(1), dim3(384), 1024};
    BOOST_TEST((failure_of(registers_kernel<40, 232>, grid, 128U) == "none"));
    expect(failure_of(registers_kernel<56, 232>, grid, 128U), {"more than there are"});
    expect(failure_of(registers_kernel<40, 168>, grid, 96U), {"different registers"});
    expect(failure_of(registers_kernel<40, 160>, grid, 128U), {"by a warp that has 168"});
}

BOOST_AUTO_TEST_CASE(boxes) {
    constexpr Index rows = 64;
    constexpr Index columns = 256;
    const Array<BFloat16> matrix(rows * columns);
    using Matrix = View<Cuda, const BFloat16, 2>;
    machine::TensorMap map;
    BOOST_REQUIRE(hopper::make_tensor_map(Matrix(matrix.data(), rows, columns), {64, 1}, map));
    const auto failure = [&](const BoxFault& fault) {
        return failure_of(box_kernel, one_group, map, fault);
    };
    in_any_order([&] {
        BOOST_TEST(failure({}) == "none");
        expect(failure({.shift = 512}), {"multiple of 1024"});
        expect(failure({.shift = 4 * tile_bytes}), {"not dynamic shared memory"});
        expect(failure({.block = 4}), {"block 4", "of 4"});
        expect(failure({.block = -1}), {"block -1"});
        expect(failure({.is_twice = true}), {"another copy is under way"});
        expect(failure({.has_map = false}), {"not made"});
    });
    machine::TensorMap other;
    BOOST_TEST(!hopper::make_tensor_map(Matrix(matrix.data() + 4, rows, 64), {64, 1}, other));
    BOOST_TEST(!hopper::make_tensor_map(Matrix(matrix.data(), rows, 64, 68), {64, 1}, other));
    BOOST_TEST(!hopper::make_tensor_map(Matrix(matrix.data(), rows, 64), {257, 1}, other));
    BOOST_CHECK_THROW(
        hopper::make_tensor_map(Matrix(matrix.data(), rows + 1, columns), {64, 1}, other),
        emulator::Failure);
}

BOOST_AUTO_TEST_CASE(products) {
    const Array<float> out(128);
    const auto failure = [&](ProductFault fault) {
        return failure_of(product_kernel, one_group, fault, out.data());
    };
    in_any_order([&] {
        BOOST_TEST(failure(ProductFault::none) == "none");
        BOOST_TEST(out.values() == std::vector<float>(128, 16), boost::test_tools::per_element());
        expect(failure(ProductFault::no_fence), {"without fence_products"});
        expect(failure(ProductFault::changed), {"c[3] was changed"});
        expect(failure(ProductFault::other_operands), {"have other operands"});
        expect(failure(ProductFault::out_of_memory), {"out of dynamic shared memory"});
        expect(failure(ProductFault::unfenced_store), {"without fence_shared"});
        BOOST_TEST(failure(ProductFault::early) == "none");
        BOOST_TEST(std::isnan(out.values()[0]));
    });
    expect(failure(ProductFault::no_wait), {"no thread has waited for"});
    BOOST_TEST(failure(ProductFault::overwritten) == "none");
    BOOST_TEST(out.values()[0] != 16);
    expect(failure_of(product_kernel, Grid{dim3(1), dim3(96), one_group.shared_bytes},
                      ProductFault::none, out.data()),
           {"96 wait at wait_for_products"});
}

BOOST_AUTO_TEST_CASE(tiles_released_too_early) {
    std::vector<unsigned char> ones(tile_bytes);
    for (std::size_t i = 0; i < ones.size(); i += 2) {
        ones[i] = 0x80;
        ones[i + 1] = 0x3F;
    }
    const Array<unsigned char> from(ones);
    const Array<float> out(128);
    in_any_order([&] {
        BOOST_TEST(failure_of(ring_kernel, two_groups, from.data(), false, out.data()) == "none");
        BOOST_TEST(out.values() == std::vector<float>(128, 32), boost::test_tools::per_element());
    });
    BOOST_TEST(failure_of(ring_kernel, two_groups, from.data(), true, out.data()) == "none");
    BOOST_TEST(std::isnan(out.values()[0]));
}

BOOST_AUTO_TEST_CASE(other_devices) {
    emulator::set_capability(8, 0);
    const Array<float> out(128);
    expect(failure_of(product_kernel, one_group, ProductFault::none, out.data()),
           {"compute capability 8.0"});
    const Array<BFloat16> matrix(64);
    machine::TensorMap map;
    BOOST_TEST(!hopper::make_tensor_map({matrix.data(), 1, 64}, {64, 1}, map));
    BOOST_CHECK_THROW(emulator::set_capability(7, 0), emulator::Failure);
}

BOOST_AUTO_TEST_SUITE_END()
