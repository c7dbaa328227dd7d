#define HWY_TARGET_INCLUDE "kernels/cpu/swiglu.cpp"

#include "kernels/swiglu.hpp"

#include "kernels/cpu/simd.hpp"

HWY_BEFORE_NAMESPACE();
namespace longlora::HWY_NAMESPACE {

void swiglu_forward_rows(const SwigluForward<Cpu>& op, Range rows) {
    for (Index t = rows.begin; t < rows.end; ++t) {
        const float* gate = op.gate.row(t);
        const float* up = op.up.row(t);
        float* out = op.out.row(t);
        for_vectors(op.out.columns(), [&](Index i, Index count) HWY_ATTR {
            const Vector g = load(gate + i, count);
            const Vector silu = hn::Mul(g, sigmoid(g));
            store(hn::Mul(silu, load(up + i, count)), out + i, count);
        });
    }
}

void swiglu_backward_rows(const SwigluBackward<Cpu>& op, Range rows) {
    const Vector one = hn::Set(tag, 1.0F);
    for (Index t = rows.begin; t < rows.end; ++t) {
        const float* d_out = op.d_out.row(t);
        const float* gate = op.gate.row(t);
        const float* up = op.up.row(t);
        float* d_gate = op.d_gate.row(t);
        float* d_up = op.d_up.row(t);
        for_vectors(op.gate.columns(), [&](Index i, Index count) HWY_ATTR {
            const Vector d = load(d_out + i, count);
            const Vector g = load(gate + i, count);
            const Vector u = load(up + i, count);
            const Vector s = sigmoid(g);
            const Vector slope = hn::Mul(s, hn::MulAdd(g, hn::Sub(one, s), one));
            store(hn::Mul(d, hn::Mul(g, s)), d_up + i, count);
            store(hn::Mul(hn::Mul(d, u), slope), d_gate + i, count);
        });
    }
}

}  // namespace longlora::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace longlora {
namespace {

HWY_EXPORT(swiglu_forward_rows);
HWY_EXPORT(swiglu_backward_rows);

constexpr Index rows_per_block = 16;

}  // namespace

void swiglu_forward(const Stream<Cpu>& stream, const SwigluForward<Cpu>& op) {
    parallel_blocks(stream, op.out.rows(), rows_per_block, [&](Range rows) {
        HWY_DYNAMIC_DISPATCH(swiglu_forward_rows)(op, rows);
    });
}

void swiglu_backward(const Stream<Cpu>& stream, const SwigluBackward<Cpu>& op) {
    parallel_blocks(stream, op.gate.rows(), rows_per_block, [&](Range rows) {
        HWY_DYNAMIC_DISPATCH(swiglu_backward_rows)(op, rows);
    });
}

}  // namespace longlora
#endif  // HWY_ONCE
