#define HWY_TARGET_INCLUDE "kernels/cpu/packed_matmul.cpp"

#include "kernels/cpu/packed_matmul.hpp"

#include <algorithm>
#include <cassert>

#include <hwy/cache_control.h>

#include "kernels/cpu/scratch.hpp"
#include "kernels/cpu/tile.hpp"

#ifndef LONGLORA_KERNELS_CPU_PACKED_BLOCK
#define LONGLORA_KERNELS_CPU_PACKED_BLOCK
namespace longlora {

// A part of a product: rows and columns of the result, and the terms of their sums.
struct Block {
    Range rows;
    Range columns;
    Range depth;
};

// Up to two panels.
constexpr Index few_columns = 32;

}  // namespace longlora
#endif

HWY_BEFORE_NAMESPACE();
namespace longlora::HWY_NAMESPACE {

// Both operands as the tile reads them: left(i, k) is data[i row + k step] within a strip of 6 rows,
// right(k, j) is data[k step + j] within a panel of 16 columns.
struct LeftStrips {
    const float* data;
    Index strip;  // from one strip of rows to the next
    Index row;
    Index step;

    LeftOperand at(Index r) const { return {data + r / tile_rows * strip, row, step}; }
};
struct RightPanels {
    const float* data;
    Index panel;  // from one panel of columns to the next
    Index step;

    RightOperand at(Index c) const { return {data + c / tile_columns * panel, step}; }
};

using Source = Operand<Cpu, float>;

// op(x)[rows, columns] as a view of what is stored.
inline View<Cpu, const float, 2> part(const Source& x, Range rows, Range columns) {
    return x.is_transposed ? x.view.rows(columns).columns(rows)
                           : x.view.rows(rows).columns(columns);
}

// Six rows beside each other, out[k][6]; zeros stand for rows that are not there. The last vector
// may be written two floats beyond the strip.
inline void pack_strip(View<Cpu, const float, 2> x, float* out) {
    Index k = 0;
#if HWY_MAX_BYTES >= 32
    if (x.rows() >= lanes) {  // rows 6 and 7 belong to the next strip and are written over
        for (; k + lanes <= x.columns(); k += lanes) {
            transpose_8x8(x.data() + k, x.pitch(), out + k * tile_rows, tile_rows);
        }
    }
#endif
    const Index rows = std::min(x.rows(), tile_rows);
    for (; k < x.columns(); ++k) {
        for (Index i = 0; i < tile_rows; ++i) {
            out[k * tile_rows + i] = i < rows ? x.row(i)[k] : 0.0F;
        }
    }
}

// The same of x': out[k][6] = x[k][first .. first + 5].
inline void pack_turned_strip(View<Cpu, const float, 2> x, float* out) {
    const bool is_whole = x.columns() >= lanes;
    for (Index k = 0; k < x.rows(); ++k, out += tile_rows) {
        if (is_whole) {
            hn::StoreU(hn::LoadU(tag, x.row(k)), tag, out);
            continue;
        }
        for (Index i = 0; i < tile_rows; ++i) {
            out[i] = i < x.columns() ? x.row(k)[i] : 0.0F;
        }
    }
}

// Size of a packed block of rows: whole strips, and the two floats that the last one writes beyond.
constexpr Index packed_rows_size(Index rows, Index depth) {
    return round_up(round_up(rows, tile_rows) * depth + 2, tile_columns);
}

LeftStrips pack_left(const Source& a, Range rows, Range depth, float* out) {
    const Index strip = tile_rows * depth.size();
    for (Index r = rows.begin; r < rows.end; r += tile_rows) {
        // Up to eight rows are shown, so that whole vectors can be read.
        const auto x = part(a, {r, std::min(r + lanes, rows.end)}, depth);
        float* to = out + (r - rows.begin) / tile_rows * strip;
        a.is_transposed ? pack_turned_strip(x, to) : pack_strip(x, to);
    }
    return {out, strip, 1, tile_rows};
}

// One panel of up to 16 columns of op(b).
inline void pack_right(const Source& b, Range depth, Range columns, float* out) {
    const auto x = part(b, depth, columns);
    if (b.is_transposed) {
        pack_panel(x, out);
        return;
    }
    for (Index k = 0; k < depth.size(); ++k, out += tile_columns) {
        if (x.columns() == tile_columns) {
            for (Index j = 0; j < tile_columns; j += lanes) {
                hn::StoreU(hn::LoadU(tag, x.row(k) + j), tag, out + j);
            }
            continue;
        }
        std::copy_n(x.row(k), x.columns(), out);
        std::fill(out + x.columns(), out + tile_columns, 0.0F);
    }
}

struct Terms {
    Index depth;
    bool adds;  // to what is in the result
    float alpha;
};

// out (+)= alpha a b for a tile at the edge, of which only a part is there.
void edge_tile(const Terms& terms, LeftOperand a, RightOperand b, View<Cpu, float, 2> out) {
    HWY_ALIGN float whole[tile_rows * tile_columns];
    tile<Update::overwrite>(terms.depth, a, b, {whole, tile_columns});
    const Vector alpha = hn::Set(tag, terms.alpha);
    for (Index i = 0; i < out.rows(); ++i) {
        for_vectors(out.columns(), [&](Index j, Index count) HWY_ATTR {
            const Vector product = load(whole + i * tile_columns + j, count);
            float* to = out.row(i) + j;
            store(
                terms.adds ? hn::MulAdd(alpha, product, load(to, count)) : hn::Mul(alpha, product),
                to, count);
        });
    }
}

// out (+)= alpha a b for a whole tile; `alpha` has the factor once for each row.
HWY_INLINE void whole_tile(const Terms& terms, LeftOperand a, RightOperand b,
                           View<Cpu, float, 2> out, const float* alpha) {
    for (Index i = 0; i < tile_rows; ++i) {
        hwy::Prefetch(out.row(i));
        hwy::Prefetch(out.row(i) + tile_columns - 1);
    }
    const TileOutput c{out.data(), out.pitch()};
    if (terms.adds) {
        tile<Update::add_scaled>(terms.depth, a, b, c, alpha);
    } else {
        tile<Update::overwrite_scaled>(terms.depth, a, b, c, alpha);
    }
}

// Calls the next packed panel into the cache, some lines with each strip of rows.
class PanelAhead {
public:
    // `strips` are worked on meanwhile; a panel that is not packed is left to the machine.
    PanelAhead(const RightPanels& right, Index depth, Index strips)
        : lines_(right.step == tile_columns ? ceil_div(depth, strips) : 0) {}

    void start(const float* panel) { next_ = panel; }
    void call() {
        for (Index i = 0; i < lines_; ++i, next_ += tile_columns) {
            hwy::Prefetch(next_);  // 16 floats, a line
        }
    }

private:
    Index lines_;
    const float* next_ = nullptr;
};

// out (+)= alpha left right: a panel of the right operand stays in the nearest cache for all strips
// of the left one.
void multiply_packed(const LeftStrips& left, const RightPanels& right, View<Cpu, float, 2> out,
                     const Terms& terms) {
    if (out.rows() == 0) {
        return;
    }
    PanelAhead ahead(right, terms.depth, ceil_div(out.rows(), tile_rows));
    HWY_ALIGN float alpha[tile_rows];
    std::fill(alpha, alpha + tile_rows, terms.alpha);
    for (Index c = 0; c < out.columns(); c += tile_columns) {
        const RightOperand b = right.at(c);
        ahead.start(right.at(c + tile_columns < out.columns() ? c + tile_columns : 0).data);
        for (Index r = 0; r < out.rows(); r += tile_rows) {
            const auto target = out.rows({r, std::min(r + tile_rows, out.rows())})
                                    .columns({c, std::min(c + tile_columns, out.columns())});
            if (target.rows() < tile_rows || target.columns() < tile_columns) {
                edge_tile(terms, left.at(r), b, target);
                continue;
            }
            ahead.call();
            whole_tile(terms, left.at(r), b, target, alpha);
        }
    }
}

// Columns of op(b) as whole panels one after another, out[panel][depth][16].
void pack_right_panels(const Source& b, Range depth, Range columns, float* out) {
    for (Index c = columns.begin; c < columns.end; c += tile_columns) {
        pack_right(b, depth, {c, std::min(c + tile_columns, columns.end)}, out);
        out += tile_columns * depth.size();
    }
}

// Against few columns the rows are read where they lie: packing them would cost as much as it
// brings. The rows that do not fill a strip are packed, since the tile reads six.
void multiply_rows_in_place(const Matmul<Cpu>& op, const Block& block, const RightPanels& right,
                            const Terms& terms) {
    const Index whole = block.rows.size() / tile_rows * tile_rows;
    const auto a = part(op.a, block.rows, block.depth);
    const auto out = op.out.rows(block.rows).columns(block.columns);
    multiply_packed({a.data(), tile_rows * a.pitch(), a.pitch(), 1}, right, out.rows({0, whole}),
                    terms);
    if (whole < block.rows.size()) {
        ThreadScratch<ScratchUse::packed_rows> memory(packed_rows_size(tile_rows, terms.depth));
        const Range rest{block.rows.begin + whole, block.rows.end};
        const auto left = pack_left(op.a, rest, block.depth, memory.take(0));
        multiply_packed(left, right, out.rows({whole, block.rows.size()}), terms);
    }
}

// One block of the result with the columns of op(b) packed: `panels` as pack_right_panels made it.
void multiply_block(const Matmul<Cpu>& op, const Block& block, const float* panels, bool adds) {
    const Terms terms{block.depth.size(), adds, op.alpha};
    const RightPanels right{panels, tile_columns * terms.depth, tile_columns};
    if (!op.a.is_transposed && block.columns.size() <= few_columns) {
        multiply_rows_in_place(op, block, right, terms);
        return;
    }
    ThreadScratch<ScratchUse::packed_rows> memory(packed_rows_size(block.rows.size(), terms.depth));
    const auto left = pack_left(op.a, block.rows, block.depth, memory.take(0));
    multiply_packed(left, right, op.out.rows(block.rows).columns(block.columns), terms);
}

// One block of a result of few rows: op(b), not transposed, is read where it lies, but for the
// columns that do not fill a panel.
void multiply_few_rows(const Matmul<Cpu>& op, const Block& block, bool adds) {
    const Terms terms{block.depth.size(), adds, op.alpha};
    const Index rows_size = packed_rows_size(block.rows.size(), terms.depth);
    ThreadScratch<ScratchUse::packed_rows> memory(rows_size + tile_columns * terms.depth);
    const auto left = pack_left(op.a, block.rows, block.depth, memory.take(rows_size));
    const auto b = part(op.b, block.depth, block.columns);
    const auto out = op.out.rows(block.rows).columns(block.columns);
    const Index whole = block.columns.size() / tile_columns * tile_columns;
    multiply_packed(left, {b.data(), tile_columns, b.pitch()}, out.columns({0, whole}), terms);
    if (whole < block.columns.size()) {
        float* panel = memory.take(tile_columns * terms.depth);
        pack_right(op.b, block.depth, {block.columns.begin + whole, block.columns.end}, panel);
        multiply_packed(left, {panel, 0, tile_columns}, out.columns({whole, block.columns.size()}),
                        terms);
    }
}

bool has_wide_vectors() { return lanes >= 8; }

}  // namespace longlora::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace longlora {
namespace {

HWY_EXPORT(pack_right_panels);
HWY_EXPORT(multiply_block);
HWY_EXPORT(multiply_few_rows);
HWY_EXPORT(has_wide_vectors);

constexpr Index panel_columns = 16;
constexpr Index block_depth = 384;  // a panel of it, 24 KB, stays in the first cache; part of the
                                    // result's definition, so never a function of the machine
constexpr Index block_rows = 144;   // of it 216 KB, in the second cache
constexpr Index block_columns = 2048;  // of it 3 MB, in the last, shared by all threads
// Floats: as many blocks of the contraction as fit are packed at once, so that threads seldom meet.
constexpr Index packed_size = 2 << 20;
constexpr Index pack_panels = 16;  // of a thread at a time
constexpr Index few_rows = 24;
// Below this many multiplications a second thread costs more than it brings.
constexpr Index small_product = 1 << 20;

// Length of equal blocks, a multiple of `unit`, as many for each thread.
Index equal_blocks(Index count, Index largest, Index unit, int threads) {
    const Index blocks = ceil_div(ceil_div(count, largest), threads) * threads;
    return ceil_div(ceil_div(count, blocks), unit) * unit;
}

void multiply_few_rows_by_columns(const Stream<Cpu>& stream, const Matmul<Cpu>& op, bool adds) {
    const Index columns = op.out.columns();
    const Index size = equal_blocks(columns, block_columns, panel_columns, stream.threads());
    parallel_blocks(stream, columns, size, [&](Range part) {
        for (Index k = 0; k < op.a.columns(); k += block_depth) {
            const Range depth{k, std::min(k + block_depth, op.a.columns())};
            HWY_DYNAMIC_DISPATCH(multiply_few_rows)
            (op, {{0, op.out.rows()}, part, depth}, adds || k > 0);
        }
    });
}

// So much of the contraction is packed at once, with so many columns.
Index packed_depth(Index columns) {
    return std::max<Index>(1, packed_size / (block_depth * round_up(columns, panel_columns))) *
           block_depth;
}

// Panels of op(b): some columns, some whole blocks of the contraction (but for the last). Those of
// a block lie beside each other, [block][panel][depth][16].
struct PackedRight {
    Range columns;
    Range depth;

    Index panels() const { return ceil_div(columns.size(), panel_columns); }
    Index blocks() const { return ceil_div(depth.size(), block_depth); }
    Index size() const { return panels() * panel_columns * depth.size(); }

    Range block(Index i) const {
        const Index begin = depth.begin + i * block_depth;
        return {begin, std::min(begin + block_depth, depth.end)};
    }
    // Where panels from `first` on of a block begin.
    Index offset(Index i, Index first) const {
        return panel_columns * (i * panels() * block_depth + first * block(i).size());
    }
};

void pack(const Stream<Cpu>& stream, const Operand<Cpu, float>& b, const PackedRight& right,
          float* packed) {
    const Index parts = ceil_div(right.panels(), pack_panels);
    parallel_for(stream, right.blocks() * parts, [&](Index i) {
        const Index first = i % parts * pack_panels;
        const Index begin = right.columns.begin + first * panel_columns;
        const Range columns{begin,
                            std::min(begin + pack_panels * panel_columns, right.columns.end)};
        HWY_DYNAMIC_DISPATCH(pack_right_panels)
        (b, right.block(i / parts), columns, packed + right.offset(i / parts, first));
    });
}

// Some columns of the result, with some of the contraction. The threads meet twice.
void multiply_columns(const Stream<Cpu>& stream, const Matmul<Cpu>& op, const PackedRight& right,
                      bool adds) {
    ThreadScratch<ScratchUse::packed_panels> memory(right.size());
    float* packed = memory.take(right.size());
    pack(stream, op.b, right, packed);
    const Index rows = equal_blocks(op.out.rows(), block_rows, 6, stream.threads());
    parallel_blocks(stream, op.out.rows(), rows, [&](Range part) {
        for (Index i = 0; i < right.blocks(); ++i) {
            HWY_DYNAMIC_DISPATCH(multiply_block)
            (op, {part, right.columns, right.block(i)}, packed + right.offset(i, 0), adds || i > 0);
        }
    });
}

}  // namespace

bool packed_matmul_is_fast() { return HWY_DYNAMIC_DISPATCH(has_wide_vectors)(); }

void packed_matmul(const Stream<Cpu>& stream, const Matmul<Cpu>& op) {
    const Index depth = op.a.columns();
    const Index columns = op.out.columns();
    assert(depth > 0 && (op.beta == 0 || op.beta == 1));
    const bool is_small = op.out.rows() * columns * depth <= 2 * small_product;
    const Stream<Cpu> used(is_small ? 1 : stream.threads());
    if (op.out.rows() <= few_rows && !op.b.is_transposed) {
        multiply_few_rows_by_columns(used, op, op.beta == 1);
        return;
    }
    for (Index c = 0; c < columns; c += block_columns) {
        const Range some{c, std::min(c + block_columns, columns)};
        const Index part = packed_depth(some.size());
        for (Index k = 0; k < depth; k += part) {
            multiply_columns(used, op, {some, {k, std::min(k + part, depth)}},
                             op.beta == 1 || k > 0);
        }
    }
}

std::size_t packed_matmul_bytes(Index depth, Index columns) {
    const Index most = std::min(columns, block_columns);
    const PackedRight right{{0, most}, {0, std::min(depth, packed_depth(most))}};
    return sizeof(float) * static_cast<std::size_t>(right.size());
}

}  // namespace longlora
#endif  // HWY_ONCE
