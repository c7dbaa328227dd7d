#define HWY_TARGET_INCLUDE "kernels/cpu/cross_entropy.cpp"

#include "kernels/cross_entropy.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>

#include "kernels/cpu/simd.hpp"

HWY_BEFORE_NAMESPACE();
namespace longlora::HWY_NAMESPACE {

HWY_INLINE float largest(const float* z, Index size) {
    Vector top = hn::Set(tag, -std::numeric_limits<float>::infinity());
    Index i = 0;
    for (; i + lanes <= size; i += lanes) {
        top = hn::Max(top, load(z + i));
    }
    float result = max_of_lanes(top);
    for (; i < size; ++i) {
        result = std::max(result, z[i]);
    }
    return result;
}

// sum_i e^(z[i] - top); addends[i], which may be z[i], becomes the i-th where wanted. Pieces of 1,024
// values are summed in float, the pieces in double: a large vocabulary does not lose digits.
HWY_INLINE double exp_sum(const float* z, Index size, float top, float* addends) {
    constexpr Index piece = 1024;
    const Vector scale = hn::Set(tag, log2_e);
    const Vector offset = hn::Set(tag, top);
    double sum = 0;
    for (Index first = 0; first < size; first += piece) {
        Vector part = hn::Zero(tag);
        for_vectors(std::min(piece, size - first), [&](Index i, Index count) HWY_ATTR {
            const Vector e = exp2(hn::Mul(hn::Sub(load(z + first + i, count), offset), scale));
            part = hn::Add(part, count == lanes ? e : first_lanes(count, e));
            if (addends != nullptr) {
                store(e, addends + first + i, count);
            }
        });
        sum += static_cast<double>(sum_of_lanes(part));
    }
    return sum;
}

HWY_INLINE void multiply(float* z, Index size, float factor) {
    for_vectors(size, [&](Index i, Index count) HWY_ATTR {
        store(hn::Mul(load(z + i, count), hn::Set(tag, factor)), z + i, count);
    });
}

void cross_entropy_rows(const CrossEntropy<Cpu>& op, Range rows) {
    const Index size = op.logits.columns();
    for (Index t = rows.begin; t < rows.end; ++t) {
        const float* z = op.logits.row(t);
        float* d = op.wants_gradient ? op.d_logits.row(t) : nullptr;
        const Index label = op.labels[t];
        if (label == ignored_label) {
            op.loss[t] = 0;
            if (op.wants_gradient) {
                std::fill(d, d + size, 0.0F);
            }
            continue;
        }
        assert(label >= 0 && label < size);
        const float top = largest(z, size);
        const double below_top = static_cast<double>(top) - static_cast<double>(z[label]);
        const double sum = exp_sum(z, size, top, d);
        op.loss[t] = static_cast<float>(std::log(sum) + below_top);
        if (op.wants_gradient) {
            multiply(d, size, static_cast<float>(static_cast<double>(op.scale) / sum));
            d[label] -= op.scale;
        }
    }
}

}  // namespace longlora::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace longlora {
namespace {

HWY_EXPORT(cross_entropy_rows);

constexpr Index rows_per_block = 8;

}  // namespace

void cross_entropy(const Stream<Cpu>& stream, const CrossEntropy<Cpu>& op) {
    parallel_blocks(stream, op.logits.rows(), rows_per_block, [&](Range rows) {
        HWY_DYNAMIC_DISPATCH(cross_entropy_rows)(op, rows);
    });
}

void loss_sum(const Stream<Cpu>&, const LossSum<Cpu>& op) {
    constexpr float largest_loss = 1 << 16;
    for (const float loss : op.loss) {
        if (loss >= 0 && loss <= largest_loss) {
            op.sum[0] += std::llrint(static_cast<double>(loss) * loss_one);
        } else {
            ++op.sum[1];
        }
    }
}

}  // namespace longlora
#endif  // HWY_ONCE
