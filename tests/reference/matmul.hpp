#pragma once

#include <vector>

#include "core/view.hpp"

namespace longlora::reference {

struct MatmulShape {
    Index rows;
    Index columns;
    Index depth;
    bool a_is_transposed;
    bool b_is_transposed;
};

// out = alpha op(a) op(b) + beta out
template <class S>
std::vector<S> matmul(const MatmulShape& shape, const std::vector<S>& a, const std::vector<S>& b,
                      S alpha, S beta, std::vector<S> out) {
    const auto at = [](const std::vector<S>& x, Index i) { return x[static_cast<std::size_t>(i)]; };
    for (Index r = 0; r < shape.rows; ++r) {
        for (Index c = 0; c < shape.columns; ++c) {
            S sum = 0;
            for (Index k = 0; k < shape.depth; ++k) {
                sum += at(a, shape.a_is_transposed ? k * shape.rows + r : r * shape.depth + k) *
                       at(b, shape.b_is_transposed ? c * shape.depth + k : k * shape.columns + c);
            }
            S& result = out[static_cast<std::size_t>(r * shape.columns + c)];
            result = alpha * sum + beta * result;
        }
    }
    return out;
}

}  // namespace longlora::reference
