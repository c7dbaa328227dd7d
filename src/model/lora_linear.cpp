#include "model/lora_linear.hpp"

#include <cassert>

#include "core/random.hpp"
#include "kernels/elementwise.hpp"

namespace longlora {

template <class Device>
auto LoraLinear<Device>::dropped_input(const Stream<Device>& stream, ConstMatrix x,
                                       const DropoutPlan& dropout,
                                       LinearScratch<Device>& scratch) const -> ConstMatrix {
    if (dropout.probability == 0) {
        return x;
    }
    const Matrix out(scratch.dropped.data(), x.rows(), x.columns());
    longlora::dropout(stream, {.x = x,
                               .out = out,
                               .probability = dropout.probability,
                               .key = random_bits(dropout.key, index_),
                               .first_row = dropout.first_position});
    return out;
}

template <class Device>
auto LoraLinear<Device>::a_of(ConstMatrix weight) const -> ConstMatrix {
    if constexpr (stores_floats<Device>) {
        if (fold_ == 0) {
            return lora_->a;
        }
    }
    return below(weight, fold_);
}

// Folded, it is s B.
template <class Device>
auto LoraLinear<Device>::b_of(ConstMatrix weight) const -> ConstMatrix {
    if constexpr (stores_floats<Device>) {
        if (fold_ == 0) {
            return lora_->b;
        }
    }
    return behind(weight, fold_);
}

template <class Device>
auto LoraLinear<Device>::low_rank_of(Matrix x, Matrix scratch) const -> Matrix {
    assert(fold_ == 0 || x.pitch() >= x.columns() + fold_);
    return fold_ > 0 ? behind(x, fold_) : scratch.rows({0, x.rows()});
}

// xa = x~ A'      y = x W' + s xa B' + beta y
template <class Device>
template <class Y>
void LoraLinear<Device>::multiply(const Stream<Device>& stream, const Product<Y>& op,
                                  const DropoutPlan& dropout,
                                  LinearScratch<Device>& scratch) const {
    const auto xa = low_rank_of(op.x, scratch.xa);
    if (lora_) {
        matmul(stream, {.a = dropped_input(stream, op.x, dropout, scratch),
                        .b = transposed(a_of(op.weight)),
                        .out = xa});
    }
    matmul(stream, {.a = with_behind(op.x, fold_),
                    .b = transposed(with_behind(op.weight, fold_)),
                    .out = op.y,
                    .beta = op.beta});
    if (lora_ && fold_ == 0) {
        matmul(
            stream,
            {.a = xa, .b = transposed(b_of(op.weight)), .out = op.y, .alpha = scale_, .beta = 1});
    }
}

template <class Device>
void LoraLinear<Device>::forward(const Stream<Device>& stream, const Forward& op,
                                 const DropoutPlan& dropout, LinearScratch<Device>& scratch) const {
    multiply<Element<Device>>(stream, {op.x, op.weight, op.y}, dropout, scratch);
}

template <class Device>
void LoraLinear<Device>::add(const Stream<Device>& stream, const Addition& op,
                             const DropoutPlan& dropout, LinearScratch<Device>& scratch) const {
    multiply<float>(stream, {op.x, op.weight, op.residual, 1}, dropout, scratch);
}

// dW += dy' x
template <class Device>
void LoraLinear<Device>::add_weight_gradient(const Stream<Device>& stream,
                                             const Backward& op) const {
    op.pieces.for_each(op.d_y.rows(), [&](Range rows) {
        const ConstMatrix x = op.x.rows(rows);
        matmul(stream, {.a = transposed(op.d_y.rows(rows)), .b = x, .out = d_weight_->addend});
        d_weight_->commit(stream, rows.size());
    });
}

// dB += s dy' xa      dA += dxa' x~
template <class Device>
void LoraLinear<Device>::add_factor_gradients(const Stream<Device>& stream, const Backward& op,
                                              ConstMatrix x,
                                              const LinearScratch<Device>& scratch) const {
    const Range rank{0, lora_->a.rows()};
    const ConstMatrix xa = low_rank_of(op.x, scratch.xa).columns(rank);
    const ConstMatrix d_xa = low_rank_of(op.d_y, scratch.d_xa).columns(rank);
    op.pieces.for_each(op.d_y.rows(), [&](Range rows) {
        matmul(stream, {.a = transposed(op.d_y.rows(rows)),
                        .b = xa.rows(rows),
                        .out = lora_->d_b.addend,
                        .alpha = scale_});
        lora_->d_b.commit(stream, rows.size());
        matmul(stream,
               {.a = transposed(d_xa.rows(rows)), .b = x.rows(rows), .out = lora_->d_a.addend});
        lora_->d_a.commit(stream, rows.size());
    });
}

// dx += m / (1 - p) * (dxa A)
template <class Device>
void LoraLinear<Device>::add_input_gradient(const Stream<Device>& stream, const Backward& op,
                                            const DropoutPlan& dropout,
                                            LinearScratch<Device>& scratch) const {
    const auto a = a_of(op.weight);
    const ConstMatrix d_xa = low_rank_of(op.d_y, scratch.d_xa);
    if (dropout.probability == 0) {
        matmul(stream, {.a = d_xa, .b = a, .out = op.d_x, .beta = 1});
        return;
    }
    const View<Device, float, 2> d_dropped(scratch.d_dropped.data(), op.d_x.rows(),
                                           op.d_x.columns());
    matmul(stream, {.a = d_xa, .b = a, .out = d_dropped});
    longlora::dropout(stream, {.x = d_dropped,
                               .out = op.d_x,
                               .probability = dropout.probability,
                               .key = random_bits(dropout.key, index_),
                               .first_row = dropout.first_position,
                               .accumulate = true});
}

// xa = x~ A'      dxa = s dy B      dx = dy W + dxa A, of which dropout makes two products
template <class Device>
void LoraLinear<Device>::backward(const Stream<Device>& stream, const Backward& op,
                                  const DropoutPlan& dropout,
                                  LinearScratch<Device>& scratch) const {
    const Index fold = dropout.probability == 0 ? fold_ : 0;
    if (lora_) {
        matmul(stream, {.a = op.d_y,
                        .b = b_of(op.weight),
                        .out = low_rank_of(op.d_y, scratch.d_xa),
                        .alpha = fold_ > 0 ? 1 : scale_});
    }
    matmul(stream, {.a = with_behind(op.d_y, fold),
                    .b = with_below(op.weight, fold),
                    .out = op.d_x,
                    .beta = op.beta});
    if (d_weight_) {
        add_weight_gradient(stream, op);
    }
    if (!lora_) {
        return;
    }
    const auto x = dropped_input(stream, op.x, dropout, scratch);
    matmul(stream,
           {.a = x, .b = transposed(a_of(op.weight)), .out = low_rank_of(op.x, scratch.xa)});
    add_factor_gradients(stream, op, x, scratch);
    if (fold == 0) {
        add_input_gradient(stream, op, dropout, scratch);
    }
}

LONGLORA_INSTANTIATE(LoraLinear);

}  // namespace longlora
