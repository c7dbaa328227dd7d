#include "kernels/matmul.hpp"

#include <algorithm>
#include <cassert>
#include <mutex>

#include <cblas.h>

#include "kernels/cpu/packed_matmul.hpp"

// OpenBLAS's own switch; other libraries lack it and are told by their environment variables.
extern "C" void openblas_set_num_threads(int threads) __attribute__((weak));

namespace longlora {
namespace {

// The tile of `out` that one call of the BLAS computes. It is a function of the product's sizes
// only: the bits of a row depend on how many rows are multiplied together, and the result must not
// depend on the number of threads.
struct Blocks {
    Index rows;
    Index columns;
};

// Below this many multiplications a second thread costs more than it brings.
constexpr Index small_product = 1 << 20;

Blocks blocks_of(Index rows, Index columns, Index depth) {
    if (rows * columns * depth <= 2 * small_product) {
        return {rows, columns};
    }
    constexpr Index enough_blocks = 8;
    const Index smallest = ceil_div(small_product, depth);  // elements of out in a block
    Blocks blocks{std::min<Index>(rows, rows >= 2048 ? 512 : 256), columns};
    if (blocks.rows * columns < smallest) {
        blocks.rows = std::min(rows, ceil_div(smallest, columns));
    }
    const Index row_blocks = ceil_div(rows, blocks.rows);
    if (row_blocks < enough_blocks) {
        const Index wanted = ceil_div(columns, ceil_div(enough_blocks, row_blocks));
        const Index least = std::max<Index>(256, ceil_div(smallest, blocks.rows));
        blocks.columns = std::min(columns, ceil_div(std::max(wanted, least), 16) * 16);
    }
    return blocks;
}

int leading(const View<Cpu, const float, 2>& view) {
    return static_cast<int>(std::max<Index>({1, view.pitch(), view.columns()}));
}

void multiply_block(const Matmul<Cpu>& op, Range rows, Range columns) {
    const bool a_turned = op.a.is_transposed;
    const bool b_turned = op.b.is_transposed;
    const auto a = a_turned ? op.a.view.columns(rows) : op.a.view.rows(rows);
    const auto b = b_turned ? op.b.view.rows(columns) : op.b.view.columns(columns);
    const auto out = op.out.rows(rows).columns(columns);
    cblas_sgemm(CblasRowMajor, a_turned ? CblasTrans : CblasNoTrans,
                b_turned ? CblasTrans : CblasNoTrans, static_cast<int>(rows.size()),
                static_cast<int>(columns.size()), static_cast<int>(op.a.columns()), op.alpha,
                a.data(), leading(a), b.data(), leading(b), op.beta, out.data(), leading(out));
}

// out = beta out; beta = 0 overwrites whatever was there, NaN too.
void scale_rows(View<Cpu, float, 2> out, float beta) {
    for (Index r = 0; r < out.rows(); ++r) {
        float* row = out.row(r);
        for (Index c = 0; c < out.columns(); ++c) {
            row[c] = beta == 0 ? 0 : beta * row[c];
        }
    }
}

// Where the packed product has no wide vectors to run on.
void blas_matmul(const Stream<Cpu>& stream, const Matmul<Cpu>& op) {
    static std::once_flag is_told;
    std::call_once(is_told, [] {
        if (openblas_set_num_threads != nullptr) {
            openblas_set_num_threads(1);  // threads are ours: one call, one thread
        }
    });
    const Index rows = op.out.rows();
    const Index columns = op.out.columns();
    const Blocks blocks = blocks_of(rows, columns, op.a.columns());
    const Index row_blocks = ceil_div(rows, blocks.rows);
    const Index column_blocks = ceil_div(columns, blocks.columns);
    parallel_for(stream, row_blocks * column_blocks, [&](Index i) {
        const Index r = i % row_blocks * blocks.rows;
        const Index c = i / row_blocks * blocks.columns;
        multiply_block(op, {r, std::min(rows, r + blocks.rows)},
                       {c, std::min(columns, c + blocks.columns)});
    });
}

}  // namespace

void matmul(const Stream<Cpu>& stream, const Matmul<Cpu>& op) {
    assert(op.a.rows() == op.out.rows() && op.b.columns() == op.out.columns());
    assert(op.a.columns() == op.b.rows());
    if (op.out.rows() == 0 || op.out.columns() == 0) {
        return;
    }
    if (op.a.columns() == 0) {
        scale_rows(op.out, op.beta);
        return;
    }
    if (!packed_matmul_is_fast()) {
        blas_matmul(stream, op);
        return;
    }
    Matmul<Cpu> scaled = op;
    if (op.beta != 0 && op.beta != 1) {
        scale_rows(op.out, op.beta);
        scaled.beta = 1;
    }
    packed_matmul(stream, scaled);
}

std::size_t cpu_matmul_bytes(Index depth, Index columns) {
    return packed_matmul_is_fast() ? packed_matmul_bytes(depth, columns) : 0;
}

bool matmul_rows_are_independent() { return packed_matmul_is_fast(); }

}  // namespace longlora
