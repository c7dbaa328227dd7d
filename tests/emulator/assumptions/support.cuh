#pragma once

#include <cstddef>
#include <cstdint>
#include <kernels/cuda/hopper/machine.cuh>  // from the include path: not what lies in the emulator
#include <string>
#include <utility>
#include <vector>

#include "core/bfloat16.hpp"
#include "emulator/device_array.cuh"

// What the checks of assumptions share.
namespace longlora {

constexpr std::size_t spare_bytes = 1024;  // for aligned_shared()

// One block, on the default stream, to its end.
template <class... Parameters, class... Arguments>
void run_block(void (*kernel)(Parameters...), unsigned threads, std::size_t shared_bytes,
               const Arguments&... arguments) {
    const std::size_t bytes = shared_bytes + spare_bytes;
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                               cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(bytes)));
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(1);
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = bytes;
    check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...));
    check(cudaDeviceSynchronize());
}

// Where element (row, column) is in a tile [columns / 64][rows][64], in elements.
inline std::size_t place_in_tile(int rows, int row, int column) {
    const int chunk = (column % 64 / 8) ^ (row % 8);
    return static_cast<std::size_t>((column / 64 * rows + row) * 64 + chunk * 8 + column % 8);
}

// A tile of value(row, column).
template <class Value>
std::vector<BFloat16> make_tile(int rows, int columns, const Value& value) {
    std::vector<BFloat16> tile(static_cast<std::size_t>(rows * columns));
    for (int row = 0; row < rows; ++row) {
        for (int column = 0; column < columns; ++column) {
            tile[place_in_tile(rows, row, column)] =
                to_bfloat16(static_cast<float>(value(row, column)));
        }
    }
    return tile;
}

// Which element of c (64, 2 registers) is c[i] of thread t.
inline std::pair<int, int> place_in_c(int t, int i) {
    return {16 * (t / 32) + t % 32 / 4 + 8 * (i / 2 % 2), 8 * (i / 4) + 2 * (t % 4) + i % 2};
}

// The first register that is not expected(row, column); empty: none.
template <class Expected>
std::string compare_c(const std::vector<float>& c, int registers, const Expected& expected) {
    std::size_t wrong = 0;
    std::string first;
    for (int t = 0; t < 128; ++t) {
        for (int i = 0; i < registers; ++i) {
            const float value = c[static_cast<std::size_t>(t * registers + i)];
            const auto [row, column] = place_in_c(t, i);
            const auto right = static_cast<float>(expected(row, column));
            if (!(value == right)) {
                if (++wrong == 1) {
                    first = "thread " + std::to_string(t) + "'s c[" + std::to_string(i) +
                            "], thought to be (" + std::to_string(row) + ", " +
                            std::to_string(column) + "), is " + std::to_string(value) + ", not " +
                            std::to_string(right);
                }
            }
        }
    }
    return first.empty() ? first : first + " (" + std::to_string(wrong) + " differ)";
}

}  // namespace longlora
