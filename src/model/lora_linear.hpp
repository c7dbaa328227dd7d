#pragma once

#include <cstdint>
#include <optional>

#include "core/arena.hpp"
#include "kernels/matmul.hpp"
#include "model/elements.hpp"
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
    View<Device, const float, 2> a;  // A (R, in)
    View<Device, const float, 2> b;  // B (out, R)
    GradientSum<Device> d_a;
    GradientSum<Device> d_b;
};

// Memory that one linear layer needs besides its operands; shared by all.
template <class Device>
struct LinearScratch {
    struct Shape {
        Index rows;           // T
        Index rank;           // R
        Index width;          // the most inputs or outputs of a layer
        Index dropout_width;  // the most inputs; 0 without dropout
    };
    LinearScratch(Arena<Device>& arena, const Shape& shape)
        : xa(arena.template matrix<Element<Device>>(shape.rows, shape.rank)),
          d_xa(arena.template matrix<Element<Device>>(shape.rows, shape.rank)),
          d_dropped(arena.template matrix<float>(shape.rows, shape.dropout_width)),
          dropped(element_matrix(arena, d_dropped)),
          a(arena.template vector<Element<Device>>(copy_size<Device>(shape.rank * shape.width))),
          b(arena.template vector<Element<Device>>(copy_size<Device>(shape.rank * shape.width))) {}

    View<Device, Element<Device>, 2> xa;       // (T, R)   x~ A'
    View<Device, Element<Device>, 2> d_xa;     // (T, R)
    View<Device, float, 2> d_dropped;          // (T, in)  gradient of x~; 0 wide without dropout
    View<Device, Element<Device>, 2> dropped;  // (T, in)  x~; may be the memory of its gradient
    View<Device, Element<Device>, 1> a;        // A and B in the storage type
    View<Device, Element<Device>, 1> b;
};

// y = x W' + s (x~ A') B',   x~ = m x / (1 - p); W frozen, or trained without A and B (tune.mode full).
//                                                                  (Hu et al., LoRA, 2021)
template <class Device>
class LoraLinear {
public:
    LoraLinear(std::optional<LoraFactors<Device>> lora, std::optional<GradientSum<Device>> d_weight,
               float scale, std::uint64_t index)
        : lora_(lora), d_weight_(d_weight), scale_(scale), index_(index) {}

    // Whether backward reads x: a frozen linear without LoRA never needs its input again.
    bool needs_input() const { return lora_.has_value() || d_weight_.has_value(); }

    struct Forward {
        View<Device, const Element<Device>, 2> x;       // (T, in)
        View<Device, const Element<Device>, 2> weight;  // (out, in)
        View<Device, Element<Device>, 2> y;             // (T, out)
    };
    void forward(const Stream<Device>& stream, const Forward& op, const DropoutPlan& dropout,
                 LinearScratch<Device>& scratch) const;

    // residual += y
    struct Addition {
        View<Device, const Element<Device>, 2> x;       // (T, in)
        View<Device, const Element<Device>, 2> weight;  // (out, in)
        View<Device, float, 2> residual;                // (T, out)
    };
    void add(const Stream<Device>& stream, const Addition& op, const DropoutPlan& dropout,
             LinearScratch<Device>& scratch) const;

    struct Backward {
        View<Device, const Element<Device>, 2> d_y;     // (T, out)
        View<Device, const Element<Device>, 2> x;       // (T, in); read only if needs_input()
        View<Device, const Element<Device>, 2> weight;  // (out, in)
        View<Device, float, 2> d_x;                     // (T, in)
        float beta = 0;                                 // 1: d_x is added to
        TokenPieces pieces = {};                        // of the rows
    };
    void backward(const Stream<Device>& stream, const Backward& op, const DropoutPlan& dropout,
                  LinearScratch<Device>& scratch) const;

private:
    void add_weight_gradient(const Stream<Device>& stream, const Backward& op) const;
    void add_factor_gradients(const Stream<Device>& stream, const Backward& op,
                              View<Device, const Element<Device>, 2> x,
                              const LinearScratch<Device>& scratch) const;
    void add_input_gradient(const Stream<Device>& stream, const Backward& op,
                            const DropoutPlan& dropout, LinearScratch<Device>& scratch) const;
    View<Device, const Element<Device>, 2> dropped_input(const Stream<Device>& stream,
                                                         View<Device, const Element<Device>, 2> x,
                                                         const DropoutPlan& dropout,
                                                         LinearScratch<Device>& scratch) const;
    // What LoRA adds to y.
    template <class Y>
    void add_low_rank(const Stream<Device>& stream, View<Device, const Element<Device>, 2> x,
                      View<Device, Y, 2> y, const DropoutPlan& dropout,
                      LinearScratch<Device>& scratch) const;

    std::optional<LoraFactors<Device>> lora_;
    std::optional<GradientSum<Device>> d_weight_;
    float scale_;          // s = alpha / R
    std::uint64_t index_;  // layer and target: each has a mask of its own
};

}  // namespace longlora
