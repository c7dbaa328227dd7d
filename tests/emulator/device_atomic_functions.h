#pragma once

#include <algorithm>
#include <concepts>
#include <type_traits>

// Threads change only where they wait, so an ordinary operation is an atomic one. Each exists for the
// types that CUDA has it for, and returns what was there before.

namespace longlora::emulator {

template <class T, class... Ts>
concept OneOf = (std::same_as<T, Ts> || ...);
template <class T>
concept Exchangeable = OneOf<T, int, unsigned, unsigned long long>;
template <class T>
concept Comparable = OneOf<T, int, unsigned, long long, unsigned long long>;
template <class T>
concept Addable = Exchangeable<T> || OneOf<T, float, double>;

template <class T, class F>
T replace(T* at, const F& f) {
    const T before = *at;
    *at = f(before);
    return before;
}

// Integers wrap.
template <class T>
T wrapping_sum(T a, T b) {
    if constexpr (std::is_integral_v<T>) {
        using U = std::make_unsigned_t<T>;
        return static_cast<T>(static_cast<U>(a) + static_cast<U>(b));
    } else {
        return a + b;
    }
}

}  // namespace longlora::emulator

template <longlora::emulator::Addable T>
T atomicAdd(T* at, std::type_identity_t<T> x) {
    using longlora::emulator::replace;
    return replace(at, [x](T y) { return longlora::emulator::wrapping_sum(y, x); });
}
template <longlora::emulator::OneOf<int, unsigned> T>
T atomicSub(T* at, std::type_identity_t<T> x) {
    return longlora::emulator::replace(at, [x](T y) {
        return static_cast<T>(static_cast<unsigned>(y) - static_cast<unsigned>(x));
    });
}
template <longlora::emulator::Comparable T>
T atomicMin(T* at, std::type_identity_t<T> x) {
    return longlora::emulator::replace(at, [x](T y) { return std::min(x, y); });
}
template <longlora::emulator::Comparable T>
T atomicMax(T* at, std::type_identity_t<T> x) {
    return longlora::emulator::replace(at, [x](T y) { return std::max(x, y); });
}
template <longlora::emulator::Exchangeable T>
T atomicAnd(T* at, std::type_identity_t<T> x) {
    return longlora::emulator::replace(at, [x](T y) { return x & y; });
}
template <longlora::emulator::Exchangeable T>
T atomicOr(T* at, std::type_identity_t<T> x) {
    return longlora::emulator::replace(at, [x](T y) { return x | y; });
}
template <longlora::emulator::Exchangeable T>
T atomicXor(T* at, std::type_identity_t<T> x) {
    return longlora::emulator::replace(at, [x](T y) { return x ^ y; });
}
template <class T>
    requires longlora::emulator::Exchangeable<T> || std::same_as<T, float>
T atomicExch(T* at, std::type_identity_t<T> x) {
    return longlora::emulator::replace(at, [x](T) { return x; });
}
template <longlora::emulator::Exchangeable T>
T atomicCAS(T* at, std::type_identity_t<T> expected, std::type_identity_t<T> x) {
    return longlora::emulator::replace(at, [&](T y) { return y == expected ? x : y; });
}
