#pragma once

#include <cmath>
#include <complex>
#include <vector>

namespace longlora::reference {

// a = g u / (1 + e^-g)
template <class S>
std::vector<S> swiglu(const std::vector<S>& gate, const std::vector<S>& up) {
    std::vector<S> out;
    for (std::size_t i = 0; i < gate.size(); ++i) {
        out.push_back(gate[i] * up[i] / (S(1) + std::exp(-gate[i])));
    }
    return out;
}

}  // namespace longlora::reference
