#define HWY_TARGET_INCLUDE "kernels/cpu/rms_norm.cpp"

#include "kernels/rms_norm.hpp"

#include <cmath>
#include <vector>

#include "kernels/cpu/simd.hpp"

HWY_BEFORE_NAMESPACE();
namespace longlora::HWY_NAMESPACE {

void rms_norm_forward_rows(const RmsNormForward<Cpu>& op, Range rows) {
    const Index width = op.x.columns();
    for (Index t = rows.begin; t < rows.end; ++t) {
        const float* x = op.x.row(t);
        float* y = op.y.row(t);
        float* kept = op.normalised.rows() == 0 ? nullptr : op.normalised.row(t);
        Vector squares = hn::Zero(tag);
        for_vectors(width, [&](Index e, Index count) HWY_ATTR {
            const Vector v = load(x + e, count);
            squares = hn::MulAdd(v, v, squares);
        });
        const float mean = sum_of_lanes(squares) / static_cast<float>(width);
        const float rstd = 1.0F / std::sqrt(mean + op.epsilon);
        op.rstd[t] = rstd;
        for_vectors(width, [&](Index e, Index count) HWY_ATTR {
            const Vector normalised = hn::Mul(load(x + e, count), hn::Set(tag, rstd));
            if (kept != nullptr) {
                store(normalised, kept + e, count);
            }
            store(hn::Mul(normalised, load(op.weight.data() + e, count)), y + e, count);
        });
    }
}

void rms_norm_again_rows(const RmsNormAgain<Cpu>& op, Range rows) {
    for (Index t = rows.begin; t < rows.end; ++t) {
        const float* normalised = op.normalised.row(t);
        float* y = op.y.row(t);
        for_vectors(op.y.columns(), [&](Index e, Index count) HWY_ATTR {
            store(hn::Mul(load(normalised + e, count), load(op.weight.data() + e, count)), y + e,
                  count);
        });
    }
}

// `d_weight` (E) is added to where it is not null.
void rms_norm_backward_rows(const RmsNormBackward<Cpu>& op, Range rows, float* d_weight) {
    const Index width = op.d_x.columns();
    const float* weight = op.weight.data();
    for (Index t = rows.begin; t < rows.end; ++t) {
        const float* n = op.normalised.row(t);
        const float* d_y = op.d_y.row(t);
        float* d_x = op.d_x.row(t);
        const Vector rstd = hn::Set(tag, op.rstd[t]);
        Vector dot = hn::Zero(tag);
        for_vectors(width, [&](Index e, Index count) HWY_ATTR {
            const Vector d_weight_e = hn::Mul(load(d_y + e, count), load(n + e, count));
            dot = hn::MulAdd(d_weight_e, load(weight + e, count), dot);
            if (d_weight != nullptr) {
                store(hn::Add(d_weight_e, load(d_weight + e, count)), d_weight + e, count);
            }
        });
        const Vector mean = hn::Set(tag, sum_of_lanes(dot) / static_cast<float>(width));
        for_vectors(width, [&](Index e, Index count) HWY_ATTR {
            const Vector g = hn::Mul(load(d_y + e, count), load(weight + e, count));
            const Vector difference = hn::NegMulAdd(load(n + e, count), mean, g);
            store(hn::MulAdd(rstd, difference, load(d_x + e, count)), d_x + e, count);
        });
    }
}

}  // namespace longlora::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace longlora {
namespace {

HWY_EXPORT(rms_norm_forward_rows);
HWY_EXPORT(rms_norm_again_rows);
HWY_EXPORT(rms_norm_backward_rows);

constexpr Index rows_per_slab = 64;

}  // namespace

void rms_norm_forward(const Stream<Cpu>& stream, const RmsNormForward<Cpu>& op) {
    parallel_blocks(stream, op.x.rows(), rows_per_slab, [&](Range rows) {
        HWY_DYNAMIC_DISPATCH(rms_norm_forward_rows)(op, rows);
    });
}

void rms_norm_again(const Stream<Cpu>& stream, const RmsNormAgain<Cpu>& op) {
    parallel_blocks(stream, op.y.rows(), rows_per_slab, [&](Range rows) {
        HWY_DYNAMIC_DISPATCH(rms_norm_again_rows)(op, rows);
    });
}

void rms_norm_backward(const Stream<Cpu>& stream, const RmsNormBackward<Cpu>& op) {
    // d_weight is summed over slabs of fixed size, then over the slabs in order: the result does
    // not depend on the number of threads.
    const Index width = op.d_weight.size();
    const Index slabs = ceil_div(op.d_x.rows(), rows_per_slab);
    std::vector<float> parts(static_cast<std::size_t>(slabs * width), 0.0F);
    parallel_blocks(stream, op.d_x.rows(), rows_per_slab, [&](Range rows) {
        float* part = width == 0 ? nullptr : parts.data() + rows.begin / rows_per_slab * width;
        HWY_DYNAMIC_DISPATCH(rms_norm_backward_rows)(op, rows, part);
    });
    for (Index s = 0; s < slabs; ++s) {
        for (Index e = 0; e < width; ++e) {
            op.d_weight[e] += parts[static_cast<std::size_t>(s * width + e)];
        }
    }
}

}  // namespace longlora
#endif  // HWY_ONCE
