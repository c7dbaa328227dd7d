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

// out = scale x, in another type
template <class Device>
struct Convert {
    View<Device, const float, 2> x;
    View<Device, Element<Device>, 2> out;  // may be the memory of x where it has its type
    float scale = 1;
};

// out = m x / (1 - p), or out += with accumulate; m[t,i] = 0 with probability p, a counter-based
// function of (key, (first_row + t) * columns + i): any rank can make the same mask again.
template <class Device, class T = Element<Device>>
struct Dropout {
    View<Device, const T, 2> x;
    View<Device, T, 2> out;
    double probability;
    std::uint64_t key;
    Index first_row;  // absolute position of row 0
    bool accumulate = false;
};

void copy(const Stream<Cpu>& stream, const Copy<Cpu, float>& op);
template <class S>
void copy(const Stream<CudaDevice<S>>& stream, const Copy<CudaDevice<S>, float>& op);
template <class S>
void copy(const Stream<CudaDevice<S>>& stream, const Copy<CudaDevice<S>, BFloat16>& op);
void accumulate(const Stream<Cpu>& stream, const Accumulate<Cpu, float>& op);
template <class S>
void accumulate(const Stream<CudaDevice<S>>& stream, const Accumulate<CudaDevice<S>, float>& op);
void convert(const Stream<Cpu>& stream, const Convert<Cpu>& op);
template <class S>
void convert(const Stream<CudaDevice<S>>& stream, const Convert<CudaDevice<S>>& op);
void dropout(const Stream<Cpu>& stream, const Dropout<Cpu>& op);
template <class S>
void dropout(const Stream<CudaDevice<S>>& stream, const Dropout<CudaDevice<S>, float>& op);
template <class S>
void dropout(const Stream<CudaDevice<S>>& stream, const Dropout<CudaDevice<S>, BFloat16>& op);

// squares[i] = sum of x^2 over piece i of `piece` elements, in double; NaN or infinity show.
template <class Device>
struct SquaredNorms {
    View<Device, const float, 1> x;
    Index piece;
    View<Device, double, 1> squares;
};
void squared_norms(const Stream<Cpu>& stream, const SquaredNorms<Cpu>& op);
template <class S>
void squared_norms(const Stream<CudaDevice<S>>& stream, const SquaredNorms<CudaDevice<S>>& op);

}  // namespace longlora
