#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace longlora {

// Only of integers: their sum does not depend on the order.
__device__ inline void add_atomically(std::int64_t* sum, std::int64_t x) {
    atomicAdd(reinterpret_cast<unsigned long long*>(sum), static_cast<unsigned long long>(x));
}

}  // namespace longlora
