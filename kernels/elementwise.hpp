#pragma once

#include <cstdint>

#include "core/stream.hpp"

namespace longlora {

// out = x
template <class Device, class T>
struct Copy {
    View<Device, const T, 2> x;
    View<Device, T, 2> out;
};

// out += x
template <class Device, class T>
struct Accumulate {
    View<Device, const T, 2> x;
    View<Device, T, 2> out;
};

// out = m x / (1 - p), or out += with accumulate; m[t,i] = 0 with probability p, a counter-based
// function of (key, (first_row + t) * columns + i): any rank can make the same mask again.
template <class Device>
struct Dropout {
    View<Device, const float, 2> x;
    View<Device, float, 2> out;
    double probability;
    std::uint64_t key;
    Index first_row;  // absolute position of row 0
    bool accumulate = false;
};

void copy(const Stream<Cpu>& stream, const Copy<Cpu, float>& op);
void accumulate(const Stream<Cpu>& stream, const Accumulate<Cpu, float>& op);
void dropout(const Stream<Cpu>& stream, const Dropout<Cpu>& op);

// squares[i] = sum of x^2 over piece i of `piece` elements, in double; NaN or infinity show.
template <class Device>
struct SquaredNorms {
    View<Device, const float, 1> x;
    Index piece;
    View<Device, double, 1> squares;
};
void squared_norms(const Stream<Cpu>& stream, const SquaredNorms<Cpu>& op);

}  // namespace longlora
