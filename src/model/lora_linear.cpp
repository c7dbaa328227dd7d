#include "model/lora_linear.hpp"

#include "core/random.hpp"
#include "kernels/elementwise.hpp"

namespace longlora {

template <class Device>
View<Device, const Element<Device>, 2> LoraLinear<Device>::dropped_input(
    const Stream<Device>& stream, View<Device, const Element<Device>, 2> x,
    const DropoutPlan& dropout, LinearScratch<Device>& scratch) const {
    if (dropout.probability == 0) {
        return x;
    }
    const View<Device, Element<Device>, 2> out(scratch.dropped.data(), x.rows(), x.columns());
    longlora::dropout(stream, {.x = x,
                               .out = out,
                               .probability = dropout.probability,
                               .key = random_bits(dropout.key, index_),
                               .first_row = dropout.first_position});
    return out;
}

// xa = x~ A'      y += s xa B'
template <class Device>
template <class Y>
void LoraLinear<Device>::add_low_rank(const Stream<Device>& stream,
                                      View<Device, const Element<Device>, 2> x,
                                      View<Device, Y, 2> y, const DropoutPlan& dropout,
                                      LinearScratch<Device>& scratch) const {
    const auto xa = scratch.xa.rows({0, x.rows()});
    const auto a = as_elements(stream, lora_->a, scratch.a);
    const auto b = as_elements(stream, lora_->b, scratch.b);
    matmul(stream,
           {.a = dropped_input(stream, x, dropout, scratch), .b = transposed(a), .out = xa});
    matmul(stream, {.a = xa, .b = transposed(b), .out = y, .alpha = scale_, .beta = 1});
}

// y = x W' + s xa B'
template <class Device>
void LoraLinear<Device>::forward(const Stream<Device>& stream, const Forward& op,
                                 const DropoutPlan& dropout, LinearScratch<Device>& scratch) const {
    matmul(stream, {.a = op.x, .b = transposed(op.weight), .out = op.y});
    if (lora_) {
        add_low_rank(stream, op.x, op.y, dropout, scratch);
    }
}

template <class Device>
void LoraLinear<Device>::add(const Stream<Device>& stream, const Addition& op,
                             const DropoutPlan& dropout, LinearScratch<Device>& scratch) const {
    matmul(stream, {.a = op.x, .b = transposed(op.weight), .out = op.residual, .beta = 1});
    if (lora_) {
        add_low_rank(stream, op.x, op.residual, dropout, scratch);
    }
}

// dW += dy' x
template <class Device>
void LoraLinear<Device>::add_weight_gradient(const Stream<Device>& stream,
                                             const Backward& op) const {
    op.pieces.for_each(op.d_y.rows(), [&](Range rows) {
        matmul(
            stream,
            {.a = transposed(op.d_y.rows(rows)), .b = op.x.rows(rows), .out = d_weight_->addend});
        d_weight_->commit(stream, rows.size());
    });
}

// dB += s dy' xa      dA += dxa' x~
template <class Device>
void LoraLinear<Device>::add_factor_gradients(const Stream<Device>& stream, const Backward& op,
                                              View<Device, const Element<Device>, 2> x,
                                              const LinearScratch<Device>& scratch) const {
    op.pieces.for_each(op.d_y.rows(), [&](Range rows) {
        const View<Device, const Element<Device>, 2> xa = scratch.xa.rows(rows);
        matmul(stream, {.a = transposed(op.d_y.rows(rows)),
                        .b = xa,
                        .out = lora_->d_b.addend,
                        .alpha = scale_});
        lora_->d_b.commit(stream, rows.size());
        const View<Device, const Element<Device>, 2> d_xa = scratch.d_xa.rows(rows);
        matmul(stream, {.a = transposed(d_xa), .b = x.rows(rows), .out = lora_->d_a.addend});
        lora_->d_a.commit(stream, rows.size());
    });
}

// dx += m / (1 - p) * (dxa A)
template <class Device>
void LoraLinear<Device>::add_input_gradient(const Stream<Device>& stream, const Backward& op,
                                            const DropoutPlan& dropout,
                                            LinearScratch<Device>& scratch) const {
    const auto a = as_elements(stream, lora_->a, scratch.a);
    const auto d_xa = scratch.d_xa.rows({0, op.x.rows()});
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

// dx = dy W      dxa = s dy B
template <class Device>
void LoraLinear<Device>::backward(const Stream<Device>& stream, const Backward& op,
                                  const DropoutPlan& dropout,
                                  LinearScratch<Device>& scratch) const {
    matmul(stream, {.a = op.d_y, .b = op.weight, .out = op.d_x, .beta = op.beta});
    if (d_weight_) {
        add_weight_gradient(stream, op);
    }
    if (!lora_) {
        return;
    }
    const auto x = dropped_input(stream, op.x, dropout, scratch);
    const auto a = as_elements(stream, lora_->a, scratch.a);
    const auto b = as_elements(stream, lora_->b, scratch.b);
    matmul(stream, {.a = x, .b = transposed(a), .out = scratch.xa.rows({0, op.x.rows()})});
    matmul(stream,
           {.a = op.d_y, .b = b, .out = scratch.d_xa.rows({0, op.x.rows()}), .alpha = scale_});
    add_factor_gradients(stream, op, x, scratch);
    add_input_gradient(stream, op, dropout, scratch);
}

LONGLORA_INSTANTIATE(LoraLinear);

}  // namespace longlora
