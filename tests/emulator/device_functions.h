#pragma once

#include <assert.h>
#include <math.h>  // also for ::isnan and the like
#include <stdio.h>
#include <stdlib.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "emulator.hpp"

// CUDA's arithmetic for kernels. What the GPU only approximates is exact here to the type's rounding.

namespace longlora::emulator {

// A rounded x as an integer: too large ones become the nearest, NaN what PTX says.
template <class I, class F>
I to_integer(F x) {
    if (std::isnan(x)) {
        const bool is_long = sizeof(I) == 8 || sizeof(F) == 8;
        return is_long ? std::is_signed_v<I> ? std::numeric_limits<I>::min()
                                             : I{1} << (8 * sizeof(I) - 1)
                       : I{0};
    }
    if (x < static_cast<F>(std::numeric_limits<I>::min())) {
        return std::numeric_limits<I>::min();
    }
    if (x >= static_cast<F>(std::numeric_limits<I>::max())) {
        return std::numeric_limits<I>::max();
    }
    return static_cast<I>(x);
}

}  // namespace longlora::emulator

// ---- bits ----

inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return std::bit_cast<double>(x); }

inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __clzll(long long x) { return std::countl_zero(static_cast<unsigned long long>(x)); }
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __ffs(int x) { return x == 0 ? 0 : std::countr_zero(static_cast<unsigned>(x)) + 1; }
inline unsigned __brev(unsigned x) {
    unsigned reversed = 0;
    for (int i = 0; i < 32; ++i) {
        reversed |= (x >> i & 1U) << (31 - i);
    }
    return reversed;
}
inline unsigned __umulhi(unsigned x, unsigned y) {
    return static_cast<unsigned>(static_cast<unsigned long long>(x) * y >> 32U);
}
inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
    __extension__ using Wide = unsigned __int128;
    return static_cast<unsigned long long>(static_cast<Wide>(x) * y >> 64U);
}

// ---- conversions ----

inline int __float2int_rn(float x) { return longlora::emulator::to_integer<int>(std::rint(x)); }
inline int __float2int_rz(float x) { return longlora::emulator::to_integer<int>(std::trunc(x)); }
inline int __float2int_rd(float x) { return longlora::emulator::to_integer<int>(std::floor(x)); }
inline int __float2int_ru(float x) { return longlora::emulator::to_integer<int>(std::ceil(x)); }
inline long long __float2ll_rn(float x) {
    return longlora::emulator::to_integer<long long>(std::rint(x));
}
inline int __double2int_rn(double x) { return longlora::emulator::to_integer<int>(std::rint(x)); }
inline long long __double2ll_rn(double x) {
    return longlora::emulator::to_integer<long long>(std::rint(x));
}
inline long long __double2ll_rz(double x) {
    return longlora::emulator::to_integer<long long>(std::trunc(x));
}
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }
inline float __ll2float_rn(long long x) { return static_cast<float>(x); }
inline double __ll2double_rn(long long x) { return static_cast<double>(x); }
inline float __double2float_rn(double x) { return static_cast<float>(x); }

// ---- arithmetic ----

// A C library may declare some of these names, with C linkage.
extern "C" {
inline float __expf(float x) noexcept { return expf(x); }
inline float __exp10f(float x) noexcept { return powf(10.0F, x); }
inline float __logf(float x) noexcept { return logf(x); }
inline float __log2f(float x) noexcept { return log2f(x); }
inline float __log10f(float x) noexcept { return log10f(x); }
inline float __powf(float x, float y) noexcept { return powf(x, y); }
inline float __sinf(float x) noexcept { return sinf(x); }
inline float __cosf(float x) noexcept { return cosf(x); }
inline void __sincosf(float x, float* sine, float* cosine) noexcept {
    *sine = sinf(x);
    *cosine = cosf(x);
}
inline double rsqrt(double x) noexcept { return 1.0 / sqrt(x); }
inline float rsqrtf(float x) noexcept { return static_cast<float>(rsqrt(x)); }
}

inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fdividef(float x, float y) { return x / y; }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline float __frcp_rn(float x) { return 1.0F / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frsqrt_rn(float x) { return rsqrtf(x); }
inline float __saturatef(float x) { return x > 0 ? x < 1 ? x : 1.0F : 0.0F; }
inline double __dadd_rn(double x, double y) { return x + y; }
inline double __dmul_rn(double x, double y) { return x * y; }
inline double __fma_rn(double x, double y, double z) { return fma(x, y, z); }

namespace longlora::emulator {
// sin(pi x) and cos(pi x), exact where they are 0 and 1
template <class F>
void sine_and_cosine_of_pi(F x, F* sine, F* cosine) {
    constexpr F pi = static_cast<F>(3.14159265358979323846L);
    const F half_turns = std::rint(2 * x);
    const F rest = pi * (x - half_turns / 2);
    const F s = std::sin(rest);
    const F c = std::cos(rest);
    const auto quarter = static_cast<int>(half_turns - 4 * std::floor(half_turns / 4));
    *sine = quarter == 0 ? s : quarter == 1 ? c : quarter == 2 ? -s : -c;
    *cosine = quarter == 0 ? c : quarter == 1 ? -s : quarter == 2 ? -c : s;
}
}  // namespace longlora::emulator
inline void sincospi(double x, double* sine, double* cosine) {
    longlora::emulator::sine_and_cosine_of_pi(x, sine, cosine);
}
inline void sincospif(float x, float* sine, float* cosine) {
    longlora::emulator::sine_and_cosine_of_pi(x, sine, cosine);
}

// The overloads that CUDA has, no more: a call that is ambiguous there is so here.
#define LONGLORA_EMULATOR_MIN_MAX(result, left, right)                                   \
    constexpr result min(left x, right y) {                                              \
        return static_cast<result>(x) < static_cast<result>(y) ? static_cast<result>(x)  \
                                                               : static_cast<result>(y); \
    }                                                                                    \
    constexpr result max(left x, right y) {                                              \
        return static_cast<result>(x) > static_cast<result>(y) ? static_cast<result>(x)  \
                                                               : static_cast<result>(y); \
    }
LONGLORA_EMULATOR_MIN_MAX(int, int, int)
LONGLORA_EMULATOR_MIN_MAX(unsigned, unsigned, unsigned)
LONGLORA_EMULATOR_MIN_MAX(unsigned, int, unsigned)
LONGLORA_EMULATOR_MIN_MAX(unsigned, unsigned, int)
LONGLORA_EMULATOR_MIN_MAX(long, long, long)
LONGLORA_EMULATOR_MIN_MAX(unsigned long, unsigned long, unsigned long)
LONGLORA_EMULATOR_MIN_MAX(long long, long long, long long)
LONGLORA_EMULATOR_MIN_MAX(unsigned long long, unsigned long long, unsigned long long)
#undef LONGLORA_EMULATOR_MIN_MAX
inline float min(float x, float y) { return fminf(x, y); }
inline float max(float x, float y) { return fmaxf(x, y); }
inline double min(double x, double y) { return fmin(x, y); }
inline double max(double x, double y) { return fmax(x, y); }

// ---- memory ----

template <class T>
T __ldg(const T* from) {
    return *from;
}
template <class T>
T __ldcg(const T* from) {
    return *from;
}
template <class T>
T __ldcs(const T* from) {
    return *from;
}
template <class T>
void __stcg(T* to, T value) {
    *to = value;
}
template <class T>
void __stcs(T* to, T value) {
    *to = value;
}
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}
[[noreturn]] inline void __trap() { longlora::emulator::fail("__trap"); }
