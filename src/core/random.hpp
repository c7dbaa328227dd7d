#pragma once

#include <cstdint>

#include "core/view.hpp"

// Counter-based random numbers: a value is a function of (seed, purpose, index), there is no state
// to save, and any rank can draw any value. The mixer is SplitMix64's finaliser (Steele, Lea,
// Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014), applied twice.
namespace longlora {

enum class Purpose : std::uint64_t {
    initial_weight = 1,
    lora_weight,
    row_order,
    dropout,
    documents
};

constexpr std::uint64_t mix_bits(std::uint64_t x) {
    x += 0x9e3779b97f4a7c15ULL;
    x = (x ^ (x >> 30U)) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ (x >> 27U)) * 0x94d049bb133111ebULL;
    return x ^ (x >> 31U);
}

constexpr std::uint64_t random_key(std::uint64_t seed, Purpose purpose, std::uint64_t stream = 0) {
    return mix_bits(mix_bits(seed * 0x100000001b3ULL + static_cast<std::uint64_t>(purpose)) ^
                    stream);
}

constexpr std::uint64_t random_bits(std::uint64_t key, std::uint64_t index) {
    return mix_bits(key ^ mix_bits(index));
}

// Uniform in [0, 1).
constexpr double random_uniform(std::uint64_t key, std::uint64_t index) {
    return static_cast<double>(random_bits(key, index) >> 11U) * 0x1.0p-53;
}

double random_normal(std::uint64_t key, std::uint64_t index);

// The place of `index` in a pseudorandom permutation of [0, size): a Feistel network over the next
// even power of two, walked until it lands inside (Black and Rogaway, 2002).
std::uint64_t permuted(std::uint64_t key, std::uint64_t index, std::uint64_t size);

}  // namespace longlora
