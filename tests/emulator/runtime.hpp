#pragma once

#include <cstddef>

#include "cuda_runtime_api.h"

namespace longlora::emulator {

constexpr std::size_t device_bytes = std::size_t{16} << 30U;

// What the emulated device says it is; emulator.hpp has set_capability.
struct Capability {
    int major;
    int minor;
};
Capability capability();

// Keeps an error for cudaGetLastError, and hands the status on.
cudaError_t report(cudaError_t status);

}  // namespace longlora::emulator
