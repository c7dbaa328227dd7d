#include "matrix_functions.hpp"

#include <bit>
#include <cstring>
#include <string>

#include "emulator.hpp"
#include "hopper.hpp"
#include "scheduler.hpp"

namespace longlora::emulator {

namespace {

struct Load {
    std::uint32_t* r;
    const void* row;
};

struct Store {
    const std::uint32_t* r;
    void* row;
};

void check_row(const char* name, int lane, const void* row) {
    constexpr std::size_t bytes = 16;
    const bool is_aligned = reinterpret_cast<std::uintptr_t>(row) % bytes == 0;
    if (!is_aligned || !is_shared(row, bytes)) {
        fail(std::string(name) + ": the address of lane " + std::to_string(lane) +
             (is_aligned ? " is not in shared memory" : " is not a multiple of 16"));
    }
}

void require_whole_warp(const char* name, void* const* operands) {
    for (int lane = 0; lane < warp_lanes; ++lane) {
        if (operands[lane] == nullptr) {
            fail(std::string(name) + " without lane " + std::to_string(lane));
        }
    }
}

template <bool is_transposed>
void load_all(void* const* operands) {
    require_whole_warp("load_matrices", operands);
    std::uint16_t matrices[4][8][8];
    for (int lane = 0; lane < warp_lanes; ++lane) {
        const auto& load = *static_cast<const Load*>(operands[lane]);
        check_row("load_matrices", lane, load.row);
        std::memcpy(matrices[lane / 8][lane % 8], load.row, sizeof matrices[0][0]);
    }
    for (int lane = 0; lane < warp_lanes; ++lane) {
        const int major = lane / 4;
        const int minor = 2 * (lane % 4);
        for (int m = 0; m < 4; ++m) {
            const auto& x = matrices[m];
            const std::uint32_t low = is_transposed ? x[minor][major] : x[major][minor];
            const std::uint32_t high = is_transposed ? x[minor + 1][major] : x[major][minor + 1];
            static_cast<const Load*>(operands[lane])->r[m] = low | high << 16U;
        }
    }
}

template <bool is_transposed>
void store_all(void* const* operands) {
    require_whole_warp("store_matrices", operands);
    std::uint16_t matrices[4][8][8];
    for (int lane = 0; lane < warp_lanes; ++lane) {
        const int major = lane / 4;
        const int minor = 2 * (lane % 4);
        for (int m = 0; m < 4; ++m) {
            auto& x = matrices[m];
            const std::uint32_t pair = static_cast<const Store*>(operands[lane])->r[m];
            std::uint16_t& second = is_transposed ? x[minor + 1][major] : x[major][minor + 1];
            (is_transposed ? x[minor][major] : x[major][minor]) =
                static_cast<std::uint16_t>(pair & 0xFFFFU);
            second = static_cast<std::uint16_t>(pair >> 16U);
        }
    }
    const unsigned first_lane = scheduler.thread() / Scheduler::lanes * Scheduler::lanes;
    for (int lane = 0; lane < warp_lanes; ++lane) {
        void* const row = static_cast<const Store*>(operands[lane])->row;
        check_row("store_matrices", lane, row);
        std::memcpy(row, matrices[lane / 8][lane % 8], sizeof matrices[0][0]);
        if (scheduler.shared().contains_dynamic(row, 1)) {
            hopper.writes.add(scheduler.shared().address(row),
                              first_lane + static_cast<unsigned>(lane));
        }
    }
}

struct Product {
    float* c;
    const std::uint32_t* a;
    std::uint32_t b[2];
};

float low(std::uint32_t pair) { return std::bit_cast<float>(pair << 16U); }
float high(std::uint32_t pair) { return std::bit_cast<float>(pair & 0xFFFF0000U); }

constexpr int m = 16;
constexpr int k = 16;
constexpr int n = 8;
// A row of b: tests wait for many products.
using Row [[gnu::vector_size(n * sizeof(float))]] = float;

void gather(void* const* operands, float (&a)[m][k], Row (&b)[k]) {
    for (int lane = 0; lane < warp_lanes; ++lane) {
        const auto& product = *static_cast<const Product*>(operands[lane]);
        const int group = lane / 4;
        const int first = 2 * (lane % 4);
        for (int i = 0; i < 4; ++i) {
            const int row = group + 8 * (i % 2);
            const int column = first + 8 * (i / 2);
            a[row][column] = low(product.a[i]);
            a[row][column + 1] = high(product.a[i]);
        }
        for (int i = 0; i < 2; ++i) {
            b[first + 8 * i][group] = low(product.b[i]);
            b[first + 8 * i + 1][group] = high(product.b[i]);
        }
    }
}

void multiply_all(void* const* operands) {
    require_whole_warp("multiply_add", operands);
    float a[m][k];
    Row b[k];
    gather(operands, a, b);
    Row sums[m];
    for (int row = 0; row < m; ++row) {
        Row sum{};
        for (int i = 0; i < k; ++i) {
            sum += a[row][i] * b[i];
        }
        sums[row] = sum;
    }
    for (int lane = 0; lane < warp_lanes; ++lane) {
        const auto& product = *static_cast<const Product*>(operands[lane]);
        for (int i = 0; i < 4; ++i) {
            product.c[i] += sums[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2];
        }
    }
}

}  // namespace

void load_matrices(std::uint32_t (&r)[4], const void* row, bool is_transposed) {
    Load load{r, row};
    if (is_transposed) {
        meet_whole_warp("load_matrices_transposed", &load, load_all<true>);
    } else {
        meet_whole_warp("load_matrices", &load, load_all<false>);
    }
}

void store_matrices(void* row, const std::uint32_t (&r)[4], bool is_transposed) {
    require_hopper("store_matrices");
    Store store{r, row};
    if (is_transposed) {
        meet_whole_warp("store_matrices_transposed", &store, store_all<true>);
    } else {
        meet_whole_warp("store_matrices", &store, store_all<false>);
    }
}

void multiply_add(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
    Product product{c, a, {b0, b1}};
    meet_whole_warp("multiply_add", &product, multiply_all);
}

}  // namespace longlora::emulator
