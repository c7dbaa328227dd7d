#pragma once

#include <vector>

namespace longlora::reference {

// Rows of `columns` values, heads of 2 half; cosine and sine hold `half` values a row.
template <class S>
std::vector<S> rope(std::vector<S> x, const std::vector<S>& cosine, const std::vector<S>& sine,
                    std::size_t columns, std::size_t half) {
    for (std::size_t row = 0; row < x.size() / columns; ++row) {
        for (std::size_t head = 0; head < columns; head += 2 * half) {
            for (std::size_t i = 0; i < half; ++i) {
                S& a = x[row * columns + head + i];
                S& b = x[row * columns + head + half + i];
                const S c = cosine[row * half + i];
                const S s = sine[row * half + i];
                const S turned = a * c - b * s;
                b = b * c + a * s;
                a = turned;
            }
        }
    }
    return x;
}

}  // namespace longlora::reference
