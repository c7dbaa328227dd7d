#include "kernels/fixed_point.hpp"

#include <atomic>
#include <cassert>

namespace longlora {
namespace {

constexpr Index elements_per_block = 1 << 14;

// Halves away from zero. The product and, below 2^52, the sum with 1/2 are exact in double; from
// there on every float is an integer already.
std::int64_t rounded(float x) {
    const double value = static_cast<double>(x) * fixed_point_one;
    return static_cast<std::int64_t>(value + (value < 0 ? -0.5 : 0.5));
}

// sum += x for `count` elements; how many were refused.
std::int64_t add(const float* x, std::int64_t* sum, Index count, float largest) {
    std::int64_t refused = 0;
    for (Index i = 0; i < count; ++i) {
        const bool is_good = x[i] <= largest && x[i] >= -largest;  // false for NaN
        sum[i] += is_good ? rounded(x[i]) : 0;
        refused += is_good ? 0 : 1;
    }
    return refused;
}

}  // namespace

void fixed_point_add(const Stream<Cpu>& stream, const FixedPointAdd<Cpu>& op) {
    assert(op.x.size() == op.sum.size());
    std::atomic<std::int64_t> refused = 0;
    parallel_blocks(stream, op.x.size(), elements_per_block, [&](Range range) {
        refused +=
            add(op.x.data() + range.begin, op.sum.data() + range.begin, range.size(), op.largest);
    });
    op.refused[0] += refused;
}

void fixed_point_value(const Stream<Cpu>& stream, const FixedPointValue<Cpu>& op) {
    assert(op.sum.size() == op.out.size());
    parallel_blocks(stream, op.sum.size(), elements_per_block, [&](Range range) {
        for (Index i = range.begin; i < range.end; ++i) {
            op.out[i] = static_cast<float>(static_cast<double>(op.sum[i]) / fixed_point_one);
        }
    });
}

void embedding_gradient(const Stream<Cpu>& stream, const EmbeddingGradient<Cpu>& op) {
    // Threads share the columns, not the tokens, so that no two of them write to one place.
    std::atomic<std::int64_t> refused = 0;
    parallel_blocks(stream, op.d_x.columns(), 64, [&](Range columns) {
        for (Index t = 0; t < op.d_x.rows(); ++t) {
            refused += add(op.d_x.row(t) + columns.begin, op.sum.row(op.tokens[t]) + columns.begin,
                           columns.size(), op.largest);
        }
    });
    op.refused[0] += refused;
}

}  // namespace longlora
