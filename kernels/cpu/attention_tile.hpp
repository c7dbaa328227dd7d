// What attention's two passes share: which pairs are visible, and the layouts of the operands. As in
// simd.hpp the text is wanted once for each instruction set.
#include <algorithm>

#include "kernels/cpu/tile.hpp"
#include "sequence/attention_item.hpp"

#if defined(LONGLORA_KERNELS_CPU_ATTENTION_TILE) == defined(HWY_TARGET_TOGGLE)
#ifdef LONGLORA_KERNELS_CPU_ATTENTION_TILE
#undef LONGLORA_KERNELS_CPU_ATTENTION_TILE
#else
#define LONGLORA_KERNELS_CPU_ATTENTION_TILE
#endif

HWY_BEFORE_NAMESPACE();
namespace longlora::HWY_NAMESPACE {

// Which keys of a tile a query row sees: all of them, or in a triangle those up to `offset` + row.
struct Visible {
    bool is_causal;
    Index offset;
    Index keys;

    Index operator()(Index row) const {
        return is_causal ? std::clamp<Index>(offset + row + 1, 0, keys) : keys;
    }
};

// Rows of one head, `width` >= depth columns wide, times `factor`; zeros fill the width and the
// rows behind up to `padded_rows`.
inline void pack_rows(View<Cpu, const float, 2> x, Index padded_rows, Index width, float factor,
                      float* out) {
    const Index depth = x.columns();
    for (Index r = 0; r < x.rows(); ++r, out += width) {
        for_vectors(depth, [&](Index i, Index count) HWY_ATTR {
            store(hn::Mul(load(x.row(r) + i, count), hn::Set(tag, factor)), out + i, count);
        });
        std::fill(out + depth, out + width, 0.0F);
    }
    std::fill(out, out + (padded_rows - x.rows()) * width, 0.0F);
}

// Keys side by side, out[panel of 16 keys][depth][16]: the right operand of a product whose
// contraction runs over the head's dimension.
inline void pack_panels(View<Cpu, const float, 2> x, float* out) {
    for (Index first = 0; first < x.rows(); first += tile_columns) {
        pack_panel(x.rows({first, std::min(first + tile_columns, x.rows())}), out);
        out += x.columns() * tile_columns;
    }
}

// s[i][j] = sum_d rows[i][d] panels[j][d] for the visible pairs, at the granularity of the tile.
// `rows` are `width` floats apart and padded with zeros to a multiple of 6.
inline void dot_products(View<Cpu, const float, 2> rows, const float* panels,
                         const Visible& visible, TileOutput s) {
    const Index depth = rows.columns();
    const Index last = rows.rows() - 1;
    for (Index j = 0; j < visible.keys; j += tile_columns) {
        for (Index i = 0; i <= last; i += tile_rows) {
            if (j < visible(std::min(i + tile_rows - 1, last))) {
                tile<Update::overwrite>(depth, {rows.row(i), rows.pitch(), 1},
                                        {panels + j * depth, tile_columns},
                                        {s.data + i * s.pitch + j, s.pitch});
            }
        }
    }
}

}  // namespace longlora::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // once for each target
