// The two passes over the items are in attention_forward.cpp and attention_backward.cpp.
#define HWY_TARGET_INCLUDE "kernels/cpu/attention.cpp"

#include "kernels/attention.hpp"

#include <algorithm>
#include <limits>

#include "kernels/cpu/simd.hpp"

HWY_BEFORE_NAMESPACE();
namespace longlora::HWY_NAMESPACE {

void attention_delta_rows(const AttentionDelta<Cpu>& op, Range rows) {
    const Index heads = op.delta.rows();
    const Index depth = op.out.columns() / heads;
    for (Index t = rows.begin; t < rows.end; ++t) {
        for (Index h = 0; h < heads; ++h) {
            const float* a = op.d_out.row(t) + h * depth;
            const float* b = op.out.row(t) + h * depth;
            Vector sum = hn::Zero(tag);
            for_vectors(depth, [&](Index d, Index count) HWY_ATTR {
                sum = hn::MulAdd(load(a + d, count), load(b + d, count), sum);
            });
            op.delta(h, t) = sum_of_lanes(sum);
        }
    }
}

}  // namespace longlora::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace longlora {
namespace {

HWY_EXPORT(attention_delta_rows);

constexpr Index rows_per_block = 64;

}  // namespace

void attention_reset(const Stream<Cpu>& stream, const AttentionReset<Cpu>& op) {
    parallel_blocks(stream, op.out.rows(), rows_per_block, [&](Range rows) {
        for (Index t = rows.begin; t < rows.end; ++t) {
            std::fill_n(op.out.row(t), op.out.columns(), 0.0F);
        }
    });
    for (Index h = 0; h < op.lse.rows(); ++h) {
        std::fill_n(op.lse.row(h), op.lse.columns(), -std::numeric_limits<float>::infinity());
    }
}

void attention_delta(const Stream<Cpu>& stream, const AttentionDelta<Cpu>& op) {
    parallel_blocks(stream, op.out.rows(), rows_per_block, [&](Range rows) {
        HWY_DYNAMIC_DISPATCH(attention_delta_rows)(op, rows);
    });
}

}  // namespace longlora
#endif  // HWY_ONCE
