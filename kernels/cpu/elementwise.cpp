#include "kernels/elementwise.hpp"

#include <algorithm>
#include <array>
#include <cassert>
#include <vector>

#include "core/random.hpp"

namespace longlora {
namespace {

constexpr Index elements_per_block = 1 << 14;

// Calls body(t) for each row, with enough rows to a thread's turn that small matrices stay serial.
template <class Body>
void for_rows(const Stream<Cpu>& stream, Index rows, Index columns, const Body& body) {
    const Index block = std::max<Index>(1, elements_per_block / std::max<Index>(1, columns));
    parallel_blocks(stream, rows, block, [&](Range range) {
        for (Index t = range.begin; t < range.end; ++t) {
            body(t);
        }
    });
}

// In eight sums side by side, which is what a vector unit needs and the order is fixed with. The
// squares are exact in double.
double squares_of_piece(const float* x, Index size) {
    constexpr Index width = 8;
    std::array<double, width> sums = {};
    Index i = 0;
    for (; i + width <= size; i += width) {
        for (Index lane = 0; lane < width; ++lane) {
            const double value = x[i + lane];
            sums[static_cast<std::size_t>(lane)] += value * value;
        }
    }
    for (; i < size; ++i) {
        const double value = x[i];
        sums[0] += value * value;
    }
    double total = 0;
    for (const double sum : sums) {
        total += sum;
    }
    return total;
}

}  // namespace

void copy(const Stream<Cpu>& stream, const Copy<Cpu, float>& op) {
    assert(op.x.rows() == op.out.rows() && op.x.columns() == op.out.columns());
    for_rows(stream, op.out.rows(), op.out.columns(),
             [&](Index t) { std::copy_n(op.x.row(t), op.x.columns(), op.out.row(t)); });
}

void accumulate(const Stream<Cpu>& stream, const Accumulate<Cpu, float>& op) {
    assert(op.x.rows() == op.out.rows() && op.x.columns() == op.out.columns());
    for_rows(stream, op.out.rows(), op.out.columns(), [&](Index t) {
        const float* from = op.x.row(t);
        float* to = op.out.row(t);
        for (Index i = 0; i < op.x.columns(); ++i) {
            to[i] += from[i];
        }
    });
}

void convert(const Stream<Cpu>& stream, const Convert<Cpu>& op) {
    if (op.out.data() == op.x.data() && op.scale == 1) {
        return;
    }
    assert(op.x.rows() == op.out.rows() && op.x.columns() == op.out.columns());
    for_rows(stream, op.out.rows(), op.out.columns(), [&](Index t) {
        std::transform(op.x.row(t), op.x.row(t) + op.x.columns(), op.out.row(t),
                       [&](float x) { return op.scale * x; });
    });
}

void dropout(const Stream<Cpu>& stream, const Dropout<Cpu>& op) {
    const Index columns = op.x.columns();
    const auto scale = static_cast<float>(1 / (1 - op.probability));
    for_rows(stream, op.x.rows(), columns, [&](Index t) {
        const auto first = static_cast<std::uint64_t>((op.first_row + t) * columns);
        const float* from = op.x.row(t);
        float* to = op.out.row(t);
        for (Index i = 0; i < columns; ++i) {
            const bool is_dropped =
                random_uniform(op.key, first + static_cast<std::uint64_t>(i)) < op.probability;
            const float value = is_dropped ? 0.0F : from[i] * scale;
            to[i] = op.accumulate ? to[i] + value : value;
        }
    });
}

void squared_norms(const Stream<Cpu>& stream, const SquaredNorms<Cpu>& op) {
    parallel_blocks(stream, op.squares.size(), 16, [&](Range range) {
        for (Index i = range.begin; i < range.end; ++i) {
            const Index begin = i * op.piece;
            op.squares[i] =
                squares_of_piece(op.x.data() + begin, std::min(op.piece, op.x.size() - begin));
        }
    });
}

}  // namespace longlora
