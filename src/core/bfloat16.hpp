#pragma once

#include <bit>
#include <cstdint>

namespace longlora {

// The upper half of a float: 8 bits of exponent, 8 of precision. Only stored, never computed with.
struct BFloat16 {
    std::uint16_t bits;

    constexpr bool operator==(const BFloat16&) const = default;
};

constexpr float to_float(BFloat16 x) {
    return std::bit_cast<float>(static_cast<std::uint32_t>(x.bits) << 16U);
}
constexpr float to_float(float x) { return x; }

// Rounds to nearest, ties to even, as CUDA's conversion does. NaN stays NaN.
constexpr BFloat16 to_bfloat16(float x) {
    const auto bits = std::bit_cast<std::uint32_t>(x);
    if ((bits & 0x7FFFFFFFU) > 0x7F800000U) {
        return {static_cast<std::uint16_t>(bits >> 16U | 0x40U)};
    }
    return {static_cast<std::uint16_t>((bits + 0x7FFFU + (bits >> 16U & 1U)) >> 16U)};
}

// x as a storage type.
template <class T>
constexpr T to_element(float x);
template <>
constexpr float to_element<float>(float x) {
    return x;
}
template <>
constexpr BFloat16 to_element<BFloat16>(float x) {
    return to_bfloat16(x);
}

}  // namespace longlora
