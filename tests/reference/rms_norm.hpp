#pragma once

#include <cmath>
#include <complex>
#include <vector>

namespace longlora::reference {

// y[t,e] = w[e] x[t,e] (mean_e x[t,e]^2 + eps)^(-1/2), rows of w.size()
template <class S>
std::vector<S> rms_norm(const std::vector<S>& x, const std::vector<S>& weight, S epsilon) {
    const std::size_t width = weight.size();
    std::vector<S> y(x.size());
    for (std::size_t row = 0; row < x.size(); row += width) {
        S squares = 0;
        for (std::size_t e = 0; e < width; ++e) {
            squares += x[row + e] * x[row + e];
        }
        const S mean = squares / S(static_cast<double>(width));
        const S rstd = S(1) / std::sqrt(mean + epsilon);
        for (std::size_t e = 0; e < width; ++e) {
            y[row + e] = weight[e] * x[row + e] * rstd;
        }
    }
    return y;
}

}  // namespace longlora::reference
