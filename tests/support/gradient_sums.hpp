#pragma once

#include <cmath>
#include <vector>

#include "model/parameters.hpp"

// Gradient sums, which are integers, as numbers and back.
namespace longlora::test {

// 2^48 as mathematics.md writes it, not as the kernels do.
inline double fixed_point_unit() { return std::ldexp(1.0, -48); }

// The whole array, or one tensor of it.
template <class Sums>
std::vector<float> gradient_values(const Sums& sums) {
    std::vector<float> values;
    for (const std::int64_t sum : sums) {
        values.push_back(static_cast<float>(static_cast<double>(sum) * fixed_point_unit()));
    }
    return values;
}

inline std::int64_t fixed_point(float value) {
    return std::llround(std::ldexp(static_cast<double>(value), 48));
}

}  // namespace longlora::test
