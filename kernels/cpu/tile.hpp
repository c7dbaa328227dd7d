// The register tile of every product, and how its operands are laid out. As in simd.hpp the text is
// wanted once for each instruction set.
#include <algorithm>
#include <cstring>

#include "kernels/cpu/simd.hpp"

#if defined(LONGLORA_KERNELS_CPU_TILE) == defined(HWY_TARGET_TOGGLE)
#ifdef LONGLORA_KERNELS_CPU_TILE
#undef LONGLORA_KERNELS_CPU_TILE
#else
#define LONGLORA_KERNELS_CPU_TILE
#endif

HWY_BEFORE_NAMESPACE();
namespace longlora::HWY_NAMESPACE {

constexpr Index tile_rows = 6;
constexpr Index tile_columns = 16;

struct LeftOperand {
    const float* data;
    Index row;   // from one of the tile's rows to the next
    Index step;  // along the contraction
};
struct RightOperand {
    const float* data;
    Index step;  // along the contraction; the 16 columns are contiguous
};
struct TileOutput {
    float* data;
    Index pitch;
};
// c = ab      c + ab      scale[i] c + ab      scale[i] ab      c + scale[i] ab
enum class Update { overwrite, add, rescale, overwrite_scaled, add_scaled };

template <Update update>
HWY_INLINE void store_row(Vector x, Vector y, float* c, const float* scale) {
    if constexpr (update == Update::add) {
        x = hn::Add(x, hn::LoadU(tag, c));
        y = hn::Add(y, hn::LoadU(tag, c + lanes));
    } else if constexpr (update == Update::rescale) {
        x = hn::MulAdd(hn::Set(tag, *scale), hn::LoadU(tag, c), x);
        y = hn::MulAdd(hn::Set(tag, *scale), hn::LoadU(tag, c + lanes), y);
    } else if constexpr (update == Update::overwrite_scaled) {
        x = hn::Mul(hn::Set(tag, *scale), x);
        y = hn::Mul(hn::Set(tag, *scale), y);
    } else if constexpr (update == Update::add_scaled) {
        x = hn::MulAdd(hn::Set(tag, *scale), x, hn::LoadU(tag, c));
        y = hn::MulAdd(hn::Set(tag, *scale), y, hn::LoadU(tag, c + lanes));
    }
    hn::StoreU(x, tag, c);
    hn::StoreU(y, tag, c + lanes);
}

// Two vectors wide. The twelve sums are twelve variables: as arrays g++ 12 keeps them in memory and
// the tile falls to a third of its speed.
template <Update update>
HWY_INLINE void tile_of_two_vectors(Index depth, LeftOperand a, RightOperand b, TileOutput c,
                                    const float* scale) {
    Vector x0 = hn::Zero(tag), x1 = x0, x2 = x0, x3 = x0, x4 = x0, x5 = x0;
    Vector y0 = x0, y1 = x0, y2 = x0, y3 = x0, y4 = x0, y5 = x0;
    const float* low = a.data;  // rows 0 .. 2; rows 3 .. 5 are addressed from `high`
    const float* high = a.data + 3 * a.row;
    const float* right = b.data;
    HWY_UNROLL(4)
    for (Index k = 0; k < depth; ++k) {
        const Vector b0 = hn::LoadU(tag, right);
        const Vector b1 = hn::LoadU(tag, right + lanes);
        const auto multiply = [&](const float* at, Vector& x, Vector& y) HWY_ATTR {
            const Vector v = hn::Set(tag, *at);
            x = hn::MulAdd(v, b0, x);
            y = hn::MulAdd(v, b1, y);
        };
        multiply(low, x0, y0);
        multiply(low + a.row, x1, y1);
        multiply(low + 2 * a.row, x2, y2);
        multiply(high, x3, y3);
        multiply(high + a.row, x4, y4);
        multiply(high + 2 * a.row, x5, y5);
        low += a.step;
        high += a.step;
        right += b.step;
    }
    store_row<update>(x0, y0, c.data, scale);
    store_row<update>(x1, y1, c.data + c.pitch, scale + 1);
    store_row<update>(x2, y2, c.data + 2 * c.pitch, scale + 2);
    store_row<update>(x3, y3, c.data + 3 * c.pitch, scale + 3);
    store_row<update>(x4, y4, c.data + 4 * c.pitch, scale + 4);
    store_row<update>(x5, y5, c.data + 5 * c.pitch, scale + 5);
}

// c[6][16] = sum_k a[i][k] b[k][0..15], then `update`; `scale` has 6 values where it is used.
template <Update update>
HWY_INLINE void tile(Index depth, LeftOperand a, RightOperand b, TileOutput c,
                     const float* scale = nullptr) {
    for (Index column = 0; column < tile_columns; column += 2 * lanes) {
        tile_of_two_vectors<update>(depth, a, {b.data + column, b.step}, {c.data + column, c.pitch},
                                    scale);
    }
}

#if HWY_MAX_BYTES >= 32
// Columns 0 .. 7 of eight rows `pitch` apart become rows `to_pitch` apart, written in order: where
// they overlap the later one stays.
HWY_INLINE void transpose_8x8(const float* from, Index pitch, float* to, Index to_pitch) {
    const hn::Repartition<double, Tag> pairs;
    const auto interleave_pairs = [&](Vector a, Vector b, bool upper) HWY_ATTR {
        const auto x = hn::BitCast(pairs, a);
        const auto y = hn::BitCast(pairs, b);
        return hn::BitCast(
            tag, upper ? hn::InterleaveUpper(pairs, x, y) : hn::InterleaveLower(pairs, x, y));
    };
    Vector quads[8];  // column c and c + 4 of rows 0 .. 3, then of rows 4 .. 7
    for (Index half = 0; half < 2; ++half) {
        const float* row = from + 4 * half * pitch;
        const Vector a = hn::LoadU(tag, row);
        const Vector b = hn::LoadU(tag, row + pitch);
        const Vector c = hn::LoadU(tag, row + 2 * pitch);
        const Vector d = hn::LoadU(tag, row + 3 * pitch);
        const Vector ab = hn::InterleaveLower(tag, a, b);
        const Vector cd = hn::InterleaveLower(tag, c, d);
        const Vector ab_upper = hn::InterleaveUpper(tag, a, b);
        const Vector cd_upper = hn::InterleaveUpper(tag, c, d);
        quads[4 * half] = interleave_pairs(ab, cd, false);
        quads[4 * half + 1] = interleave_pairs(ab, cd, true);
        quads[4 * half + 2] = interleave_pairs(ab_upper, cd_upper, false);
        quads[4 * half + 3] = interleave_pairs(ab_upper, cd_upper, true);
    }
    for (Index c = 0; c < 4; ++c, to += to_pitch) {
        hn::StoreU(hn::ConcatLowerLower(tag, quads[c + 4], quads[c]), tag, to);
    }
    for (Index c = 0; c < 4; ++c, to += to_pitch) {
        hn::StoreU(hn::ConcatUpperUpper(tag, quads[c + 4], quads[c]), tag, to);
    }
}
#endif

// 16 rows of x side by side, out[depth][16]; zeros stand for rows that are not there.
inline void pack_panel(View<Cpu, const float, 2> x, float* out) {
    const Index depth = x.columns();
    Index d = 0;
#if HWY_MAX_BYTES >= 32
    for (; x.rows() == tile_columns && d + lanes <= depth; d += lanes) {
        transpose_8x8(x.data() + d, x.pitch(), out + d * tile_columns, tile_columns);
        transpose_8x8(x.row(lanes) + d, x.pitch(), out + d * tile_columns + lanes, tile_columns);
    }
#endif
    for (; d < depth; ++d) {
        for (Index j = 0; j < tile_columns; ++j) {
            out[d * tile_columns + j] = j < x.rows() ? x.row(j)[d] : 0.0F;
        }
    }
}

}  // namespace longlora::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // once for each target
