#include "core/random.hpp"

#include <bit>
#include <cmath>
#include <numbers>

namespace longlora {

double random_normal(std::uint64_t key, std::uint64_t index) {
    // Box-Muller; 1 - u lies in (0, 1], so the logarithm is finite.
    const double radius = std::sqrt(-2.0 * std::log(1.0 - random_uniform(key, 2 * index)));
    return radius * std::cos(2.0 * std::numbers::pi * random_uniform(key, 2 * index + 1));
}

std::uint64_t permuted(std::uint64_t key, std::uint64_t index, std::uint64_t size) {
    if (size <= 1) {
        return 0;
    }
    const auto half_bits = static_cast<unsigned>((std::bit_width(size - 1) + 1) / 2);
    const std::uint64_t mask = (1ULL << half_bits) - 1;
    do {
        std::uint64_t left = index >> half_bits;
        std::uint64_t right = index & mask;
        for (std::uint64_t round = 0; round < 6; ++round) {
            const std::uint64_t next = left ^ (random_bits(key + round, right) & mask);
            left = right;
            right = next;
        }
        index = left << half_bits | right;
    } while (index >= size);
    return index;
}

}  // namespace longlora
