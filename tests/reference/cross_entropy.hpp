#pragma once

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstdint>
#include <vector>

namespace longlora::reference {

// loss[t] = log sum_v exp(z[t,v]) - z[t,label]; 0 where the label is negative
template <class S>
std::vector<S> cross_entropy(const std::vector<S>& logits,
                             const std::vector<std::int32_t>& labels) {
    const std::size_t size = logits.size() / labels.size();
    std::vector<S> loss;
    for (std::size_t t = 0; t < labels.size(); ++t) {
        const S* z = logits.data() + t * size;
        if (labels[t] < 0) {
            loss.push_back(0);
            continue;
        }
        auto top = std::real(z[0]);
        for (std::size_t i = 0; i < size; ++i) {
            top = std::max(top, std::real(z[i]));
        }
        S sum = 0;
        for (std::size_t i = 0; i < size; ++i) {
            sum += std::exp(z[i] - top);
        }
        loss.push_back(std::log(sum) + top - z[labels[t]]);
    }
    return loss;
}

}  // namespace longlora::reference
