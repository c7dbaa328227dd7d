#include "model/lora_linear.hpp"

#include "core/random.hpp"
#include "kernels/elementwise.hpp"

namespace longlora {

template <class Device>
View<Device, const float, 2> LoraLinear<Device>::dropped_input(
    const Stream<Device>& stream, View<Device, const float, 2> x, const DropoutPlan& dropout,
    LinearScratch<Device>& scratch) const {
    if (dropout.probability == 0) {
        return x;
    }
    const View<Device, float, 2> out(scratch.dropped.data(), x.rows(), x.columns());
    longlora::dropout(stream, {.x = x,
                               .out = out,
                               .probability = dropout.probability,
                               .key = random_bits(dropout.key, index_),
                               .first_row = dropout.first_position});
    return out;
}

// y = x W' + s xa B'       xa = x~ A'
template <class Device>
void LoraLinear<Device>::forward(const Stream<Device>& stream, const Forward& op,
                                 const DropoutPlan& dropout, LinearScratch<Device>& scratch) const {
    matmul(stream, {.a = op.x, .b = transposed(op.weight), .out = op.y, .beta = op.beta});
    if (!lora_) {
        return;
    }
    const auto x = dropped_input(stream, op.x, dropout, scratch);
    const auto xa = scratch.xa.rows({0, op.x.rows()});
    matmul(stream, {.a = x, .b = transposed(lora_->a), .out = xa});
    matmul(stream, {.a = xa, .b = transposed(lora_->b), .out = op.y, .alpha = scale_, .beta = 1});
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
                                              View<Device, const float, 2> x,
                                              const LinearScratch<Device>& scratch) const {
    op.pieces.for_each(op.d_y.rows(), [&](Range rows) {
        const View<Device, const float, 2> xa = scratch.xa.rows(rows);
        matmul(stream, {.a = transposed(op.d_y.rows(rows)),
                        .b = xa,
                        .out = lora_->d_b.addend,
                        .alpha = scale_});
        lora_->d_b.commit(stream, rows.size());
        const View<Device, const float, 2> d_xa = scratch.d_xa.rows(rows);
        matmul(stream, {.a = transposed(d_xa), .b = x.rows(rows), .out = lora_->d_a.addend});
        lora_->d_a.commit(stream, rows.size());
    });
}

// dx = dy W      dxa = s dy B
// dx += m / (1 - p) * (dxa A)
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
    const auto xa = scratch.xa.rows({0, op.x.rows()});
    const auto d_xa = scratch.d_xa.rows({0, op.x.rows()});
    matmul(stream, {.a = x, .b = transposed(lora_->a), .out = xa});
    matmul(stream, {.a = op.d_y, .b = lora_->b, .out = d_xa, .alpha = scale_});
    add_factor_gradients(stream, op, x, scratch);
    if (dropout.probability == 0) {
        matmul(stream, {.a = d_xa, .b = lora_->a, .out = op.d_x, .beta = 1});
        return;
    }
    const View<Device, float, 2> d_dropped(scratch.dropped.data(), op.d_x.rows(), op.d_x.columns());
    matmul(stream, {.a = d_xa, .b = lora_->a, .out = d_dropped});
    longlora::dropout(stream, {.x = d_dropped,
                               .out = op.d_x,
                               .probability = dropout.probability,
                               .key = random_bits(dropout.key, index_),
                               .first_row = dropout.first_position,
                               .accumulate = true});
}

LONGLORA_INSTANTIATE(LoraLinear);

}  // namespace longlora
