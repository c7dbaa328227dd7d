#pragma once

#include <cstdint>

#include "core/bfloat16.hpp"
#include "host_defines.h"
#include "vector_types.h"

// bfloat16 as CUDA's headers have it, without arithmetic: kernels store it, and compute in float.

namespace longlora::emulator {

// As the GPU's conversions: every NaN becomes the same.
inline std::uint16_t bfloat16_bits(float x) {
    return x == x ? to_bfloat16(x).bits : std::uint16_t{0x7FFF};
}

}  // namespace longlora::emulator

struct alignas(2) __nv_bfloat16 {
    __nv_bfloat16() = default;
    __nv_bfloat16(float x) : bits(longlora::emulator::bfloat16_bits(x)) {}
    operator float() const { return longlora::to_float(longlora::BFloat16{bits}); }

    std::uint16_t bits;
};
using nv_bfloat16 = __nv_bfloat16;

// CUDA rounds such results to bfloat16; the conversion to float would hide that.
__nv_bfloat16 operator+(__nv_bfloat16, __nv_bfloat16) = delete;
__nv_bfloat16 operator-(__nv_bfloat16, __nv_bfloat16) = delete;
__nv_bfloat16 operator*(__nv_bfloat16, __nv_bfloat16) = delete;
__nv_bfloat16 operator/(__nv_bfloat16, __nv_bfloat16) = delete;

struct alignas(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;
};
using nv_bfloat162 = __nv_bfloat162;

inline __nv_bfloat16 __float2bfloat16_rn(float x) { return {x}; }
inline __nv_bfloat16 __float2bfloat16(float x) { return {x}; }
inline float __bfloat162float(__nv_bfloat16 x) { return x; }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {{x}, {y}}; }
inline __nv_bfloat162 __float22bfloat162_rn(float2 x) { return {{x.x}, {x.y}}; }
inline float2 __bfloat1622float2(__nv_bfloat162 x) { return {x.x, x.y}; }
inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return {x, y}; }
inline __nv_bfloat16 __low2bfloat16(__nv_bfloat162 x) { return x.x; }
inline __nv_bfloat16 __high2bfloat16(__nv_bfloat162 x) { return x.y; }
inline float __low2float(__nv_bfloat162 x) { return x.x; }
inline float __high2float(__nv_bfloat162 x) { return x.y; }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) {
    __nv_bfloat16 x;
    x.bits = bits;
    return x;
}
