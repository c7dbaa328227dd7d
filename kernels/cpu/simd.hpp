// Vectors of 8 floats for the row kernels and attention, compiled once for each instruction set
// and chosen when the program runs (Google Highway). A source file that includes this header first
// says `#define HWY_TARGET_INCLUDE "kernels/cpu/<itself>.cpp"`; there is no #pragma once, since the
// text below is wanted again for each set.

// Between AVX2 and the portable fallback no set is kept: it would cost build time and help nobody.
// Sanitizers see enough without AVX-512; instrumented, each set takes a quarter of a minute a file.
#ifndef HWY_DISABLED_TARGETS
#ifdef __SANITIZE_ADDRESS__
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3)
#else
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)
#endif
#endif

#include <cstring>

#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/view.hpp"

#if defined(LONGLORA_KERNELS_CPU_SIMD) == defined(HWY_TARGET_TOGGLE)
#ifdef LONGLORA_KERNELS_CPU_SIMD
#undef LONGLORA_KERNELS_CPU_SIMD
#else
#define LONGLORA_KERNELS_CPU_SIMD
#endif

HWY_BEFORE_NAMESPACE();
namespace longlora::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// 8 lanes also where AVX-512 has 16: sums over lanes then have the same bits on both.
using Tag = hn::CappedTag<float, 8>;
using Vector = hn::Vec<Tag>;
constexpr Tag tag;
constexpr Index lanes = hn::MaxLanes(tag);
constexpr float log2_e = 1.44269504F;
constexpr float ln_2 = 0.693147181F;

// The first `count` <= lanes floats at p, zeros behind them; reads nothing beyond.
HWY_INLINE Vector load(const float* p, Index count = lanes) {
    if (count == lanes) {
        return hn::LoadU(tag, p);
    }
    HWY_ALIGN float part[lanes] = {};
    std::memcpy(part, p, sizeof(float) * static_cast<std::size_t>(count));
    return hn::Load(tag, part);
}

HWY_INLINE void store(Vector v, float* p, Index count = lanes) {
    if (count == lanes) {
        hn::StoreU(v, tag, p);
        return;
    }
    HWY_ALIGN float part[lanes];
    hn::Store(v, tag, part);
    std::memcpy(p, part, sizeof(float) * static_cast<std::size_t>(count));
}

// body(first, count) for consecutive vectors that cover [0, n): all of `lanes` floats but the last.
template <class Body>
HWY_INLINE void for_vectors(Index n, const Body& body) {
    Index i = 0;
    for (; i + lanes <= n; i += lanes) {
        body(i, lanes);
    }
    if (i < n) {
        body(i, n - i);
    }
}

HWY_INLINE Vector first_lanes(Index count, Vector v) {
    return hn::IfThenElseZero(hn::FirstN(tag, static_cast<std::size_t>(count)), v);
}

HWY_INLINE float sum_of_lanes(Vector v) { return hn::GetLane(hn::SumOfLanes(tag, v)); }
HWY_INLINE float max_of_lanes(Vector v) { return hn::GetLane(hn::MaxOfLanes(tag, v)); }

// 2^t for t < 127, within 0.7 units in the last place; 0 for t < -125, NaN for NaN. Adding 1.5 2^23
// rounds t to an integer, which lands in the low bits; a polynomial gives 2^f on [-1/2, 1/2]
// (minimax coefficients), and the integer is added to its exponent.
HWY_INLINE Vector exp2(Vector t) {
    const hn::RebindToSigned<Tag> integer;
    const Vector shift = hn::Set(tag, 12582912.0F);
    const Vector rounded = hn::Add(t, shift);
    const Vector f = hn::Sub(t, hn::Sub(rounded, shift));
    Vector p = hn::MulAdd(hn::Set(tag, 1.535336188e-4F), f, hn::Set(tag, 1.339887440e-3F));
    p = hn::MulAdd(p, f, hn::Set(tag, 9.618437357e-3F));
    p = hn::MulAdd(p, f, hn::Set(tag, 5.550332471e-2F));
    p = hn::MulAdd(p, f, hn::Set(tag, 2.402264791e-1F));
    p = hn::MulAdd(p, f, hn::Set(tag, 6.931472028e-1F));
    p = hn::MulAdd(p, f, hn::Set(tag, 1.0F));
    const auto exponent = hn::ShiftLeft<23>(hn::BitCast(integer, rounded));
    const Vector result = hn::BitCast(tag, hn::Add(hn::BitCast(integer, p), exponent));
    return hn::IfThenZeroElse(hn::Lt(t, hn::Set(tag, -125.0F)), result);
}

// 1 / (1 + e^-x); the bound keeps 2^t finite and lets NaN through (the second operand of Min).
HWY_INLINE Vector sigmoid(Vector x) {
    const Vector one = hn::Set(tag, 1.0F);
    const Vector t = hn::Min(hn::Set(tag, 126.0F), hn::Mul(x, hn::Set(tag, -log2_e)));
    return hn::Div(one, hn::Add(one, exp2(t)));
}

}  // namespace longlora::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // once for each target
