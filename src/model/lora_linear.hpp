#pragma once

#include <cstdint>
#include <optional>

#include "core/arena.hpp"
#include "kernels/matmul.hpp"
#include "model/fold.hpp"
#include "model/parameters.hpp"
#include "model/token_pieces.hpp"

namespace longlora {

// What a dropout mask is a function of besides (target, position, feature): one value per layer and
// target, made from (seed, step, row). Probability 0 outside training.
struct DropoutPlan {
    double probability = 0;
    std::uint64_t key = 0;
    Index first_position = 0;  // absolute position of the first row

    DropoutPlan at_row(Index row) const { return {probability, key, first_position + row}; }
};

template <class Device>
struct LoraFactors {
    View<Device, const float, 2> a;  // A (R, in); read where the layer is not folded
    View<Device, const float, 2> b;  // B (out, R); likewise
    GradientSum<Device> d_a;
    GradientSum<Device> d_b;
};

// Memory that one linear layer needs besides its operands; shared by all.
template <class Device>
struct LinearScratch {
    struct Shape {
        Index rows;           // T
        Index rank;           // R
        Index dropout_width;  // the most inputs; 0 without dropout
    };
    LinearScratch(Arena<Device>& arena, const Shape& shape)
        : xa(arena.template matrix<Element<Device>>(shape.rows, shape.rank)),
          d_xa(arena.template matrix<Element<Device>>(shape.rows, shape.rank)),
          d_dropped(arena.template matrix<float>(shape.rows, shape.dropout_width)),
          dropped(element_matrix(arena, d_dropped)) {}

    View<Device, Element<Device>, 2> xa;       // (T, R)   x~ A'; not of folded layers
    View<Device, Element<Device>, 2> d_xa;     // (T, R)   likewise
    View<Device, float, 2> d_dropped;          // (T, in)  gradient of x~; 0 wide without dropout
    View<Device, Element<Device>, 2> dropped;  // (T, in)  x~; may be the memory of its gradient
};

// y = x W' + s (x~ A') B',   x~ = m x / (1 - p); W frozen, or trained without A and B (tune.mode full).
//                                                                  (Hu et al., LoRA, 2021)
// With fold = P > 0 (model/fold.hpp) A and s B are part of the stored weight, of pitch in + P and with
// P rows below, and x and d_y have P columns behind them, which forward and backward write.
template <class Device>
class LoraLinear {
public:
    LoraLinear(std::optional<LoraFactors<Device>> lora, std::optional<GradientSum<Device>> d_weight,
               float scale, std::uint64_t index, Index fold = 0)
        : lora_(lora), d_weight_(d_weight), scale_(scale), index_(index), fold_(fold) {}

    // Whether backward reads x: a frozen linear without LoRA never needs its input again.
    bool needs_input() const { return lora_.has_value() || d_weight_.has_value(); }
    // P; 0: not folded
    Index fold() const { return fold_; }

    struct Forward {
        View<Device, Element<Device>, 2> x;             // (T, in)
        View<Device, const Element<Device>, 2> weight;  // (out, in)
        View<Device, Element<Device>, 2> y;             // (T, out)
    };
    void forward(const Stream<Device>& stream, const Forward& op, const DropoutPlan& dropout,
                 LinearScratch<Device>& scratch) const;

    // residual += y
    struct Addition {
        View<Device, Element<Device>, 2> x;             // (T, in)
        View<Device, const Element<Device>, 2> weight;  // (out, in)
        View<Device, float, 2> residual;                // (T, out)
    };
    void add(const Stream<Device>& stream, const Addition& op, const DropoutPlan& dropout,
             LinearScratch<Device>& scratch) const;

    struct Backward {
        View<Device, Element<Device>, 2> d_y;           // (T, out)
        View<Device, Element<Device>, 2> x;             // (T, in); used only if needs_input()
        View<Device, const Element<Device>, 2> weight;  // (out, in)
        View<Device, float, 2> d_x;                     // (T, in)
        float beta = 0;                                 // 1: d_x is added to
        TokenPieces pieces = {};                        // of the rows
    };
    void backward(const Stream<Device>& stream, const Backward& op, const DropoutPlan& dropout,
                  LinearScratch<Device>& scratch) const;

private:
    using Matrix = View<Device, Element<Device>, 2>;
    using ConstMatrix = View<Device, const Element<Device>, 2>;

    template <class Y>
    struct Product {
        Matrix x;
        ConstMatrix weight;
        View<Device, Y, 2> y;
        float beta = 0;
    };
    template <class Y>
    void multiply(const Stream<Device>& stream, const Product<Y>& op, const DropoutPlan& dropout,
                  LinearScratch<Device>& scratch) const;
    ConstMatrix dropped_input(const Stream<Device>& stream, ConstMatrix x,
                              const DropoutPlan& dropout, LinearScratch<Device>& scratch) const;

    // A and B as products read them, and where xa and dxa lie that belong to x and d_y.
    ConstMatrix a_of(ConstMatrix weight) const;
    ConstMatrix b_of(ConstMatrix weight) const;
    Matrix low_rank_of(Matrix x, Matrix scratch) const;

    void add_weight_gradient(const Stream<Device>& stream, const Backward& op) const;
    void add_factor_gradients(const Stream<Device>& stream, const Backward& op, ConstMatrix x,
                              const LinearScratch<Device>& scratch) const;
    void add_input_gradient(const Stream<Device>& stream, const Backward& op,
                            const DropoutPlan& dropout, LinearScratch<Device>& scratch) const;

    std::optional<LoraFactors<Device>> lora_;
    std::optional<GradientSum<Device>> d_weight_;
    float scale_;          // s = alpha / R
    std::uint64_t index_;  // layer and target: each has a mask of its own
    Index fold_;           // P
};

}  // namespace longlora
