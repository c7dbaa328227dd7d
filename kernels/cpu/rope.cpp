#define HWY_TARGET_INCLUDE "kernels/cpu/rope.cpp"

#include "kernels/rope.hpp"

#include "kernels/cpu/simd.hpp"

HWY_BEFORE_NAMESPACE();
namespace longlora::HWY_NAMESPACE {

void rope_rows(const Rope<Cpu>& op, Range rows) {
    const Index half = op.cosine.columns();
    const Vector sign = hn::Set(tag, op.is_inverse ? -1.0F : 1.0F);
    for (Index t = rows.begin; t < rows.end; ++t) {
        float* row = op.x.row(t);
        for_vectors(half, [&](Index i, Index count) HWY_ATTR {
            const Vector c = load(op.cosine.row(t) + i, count);
            const Vector s = hn::Mul(load(op.sine.row(t) + i, count), sign);
            for (float* x = row + i; x < row + op.x.columns(); x += 2 * half) {
                const Vector a = load(x, count);
                const Vector b = load(x + half, count);
                store(hn::MulSub(a, c, hn::Mul(b, s)), x, count);
                store(hn::MulAdd(b, c, hn::Mul(a, s)), x + half, count);
            }
        });
    }
}

}  // namespace longlora::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace longlora {
namespace {

HWY_EXPORT(rope_rows);

constexpr Index rows_per_block = 64;

}  // namespace

void rope(const Stream<Cpu>& stream, const Rope<Cpu>& op) {
    parallel_blocks(stream, op.x.rows(), rows_per_block, [&](Range rows) {
        HWY_DYNAMIC_DISPATCH(rope_rows)(op, rows);
    });
}

}  // namespace longlora
#endif  // HWY_ONCE
