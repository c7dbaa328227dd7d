#pragma once

#include <cuda_bf16.h>

#include "core/bfloat16.hpp"
#include "core/view.hpp"

// Storage types on the device. core/bfloat16.hpp has the same conversions for the host.
namespace longlora {

__device__ inline float load(const float* from) { return *from; }
__device__ inline float load(const BFloat16* from) {
    return __bfloat162float(*reinterpret_cast<const __nv_bfloat16*>(from));
}
__device__ inline void store(float* to, float x) { *to = x; }
__device__ inline void store(BFloat16* to, float x) {
    *reinterpret_cast<__nv_bfloat16*>(to) = __float2bfloat16_rn(x);
}

}  // namespace longlora
