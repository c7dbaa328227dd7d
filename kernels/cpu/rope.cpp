#define HWY_TARGET_INCLUDE "kernels/cpu/rope.cpp"

#include "kernels/rope.hpp"

#include <cmath>
#include <vector>

#include "kernels/cpu/simd.hpp"

HWY_BEFORE_NAMESPACE();
namespace longlora::HWY_NAMESPACE {

// The inverse of a turn is one by the negative angle.
struct Turn {
    View<Cpu, const float, 2> x;
    View<Cpu, float, 2> out;
    View<Cpu, const float, 2> cosine;
    View<Cpu, const float, 2> sine;
    float sign;
};

HWY_INLINE void turn_rows(const Turn& op, Range rows) {
    const Index half = op.cosine.columns();
    const Vector sign = hn::Set(tag, op.sign);
    for (Index t = rows.begin; t < rows.end; ++t) {
        for_vectors(half, [&](Index i, Index count) HWY_ATTR {
            const Vector c = load(op.cosine.row(t) + i, count);
            const Vector s = hn::Mul(load(op.sine.row(t) + i, count), sign);
            for (Index column = i; column < op.x.columns(); column += 2 * half) {
                const float* x = op.x.row(t) + column;
                float* y = op.out.row(t) + column;
                const Vector a = load(x, count);
                const Vector b = load(x + half, count);
                store(hn::MulSub(a, c, hn::Mul(b, s)), y, count);
                store(hn::MulAdd(b, c, hn::Mul(a, s)), y + half, count);
            }
        });
    }
}

void rope_rows(const Rope<Cpu>& op, Range rows) {
    turn_rows({op.x, op.x, op.cosine, op.sine, 1}, rows);
}

void rope_gradient_rows(const RopeGradient<Cpu>& op, Range rows) {
    turn_rows({op.d_y, op.d_x, op.cosine, op.sine, -1}, rows);
}

}  // namespace longlora::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace longlora {
namespace {

HWY_EXPORT(rope_rows);
HWY_EXPORT(rope_gradient_rows);

constexpr Index rows_per_block = 64;

}  // namespace

void rope(const Stream<Cpu>& stream, const Rope<Cpu>& op) {
    parallel_blocks(stream, op.x.rows(), rows_per_block, [&](Range rows) {
        HWY_DYNAMIC_DISPATCH(rope_rows)(op, rows);
    });
}

void rope_gradient(const Stream<Cpu>& stream, const RopeGradient<Cpu>& op) {
    parallel_blocks(stream, op.d_y.rows(), rows_per_block, [&](Range rows) {
        HWY_DYNAMIC_DISPATCH(rope_gradient_rows)(op, rows);
    });
}

void rotary_table(const Stream<Cpu>& stream, const RotaryTable<Cpu>& op) {
    const Index half = op.cosine.columns();
    std::vector<double> frequency;
    for (Index i = 0; i < half; ++i) {
        frequency.push_back(
            std::pow(op.theta, -static_cast<double>(i) / static_cast<double>(half)));
    }
    parallel_blocks(stream, op.cosine.rows(), rows_per_block, [&](Range rows) {
        for (Index t = rows.begin; t < rows.end; ++t) {
            const double position = static_cast<double>(op.first_position + t) / op.factor;
            for (Index i = 0; i < half; ++i) {
                const double angle = position * frequency[static_cast<std::size_t>(i)];
                op.cosine(t, i) = static_cast<float>(std::cos(angle));
                op.sine(t, i) = static_cast<float>(std::sin(angle));
            }
        }
    });
}

}  // namespace longlora
#endif  // HWY_ONCE
