#pragma once

#include "core/stream.hpp"

// a = g sig(g) u                                                          (Shazeer 2020, SwiGLU)
namespace longlora {

template <class Device>
struct SwigluForward {
    View<Device, const Element<Device>, 2> gate;  // (T, F)
    View<Device, const Element<Device>, 2> up;    // (T, F)
    View<Device, Element<Device>, 2> out;         // (T, F)
};

// d_u = d_a g sig(g)     d_g = d_a u sig(g) (1 + g (1 - sig(g)))
template <class Device>
struct SwigluBackward {
    View<Device, const float, 2> d_out;           // (T, F)
    View<Device, const Element<Device>, 2> gate;  // (T, F)
    View<Device, const Element<Device>, 2> up;    // (T, F)
    View<Device, Element<Device>, 2> d_gate;      // (T, F) may be the memory of gate
    View<Device, Element<Device>, 2> d_up;        // (T, F) may be the memory of up
};

void swiglu_forward(const Stream<Cpu>& stream, const SwigluForward<Cpu>& op);
template <class S>
void swiglu_forward(const Stream<CudaDevice<S>>& stream, const SwigluForward<CudaDevice<S>>& op);
void swiglu_backward(const Stream<Cpu>& stream, const SwigluBackward<Cpu>& op);
template <class S>
void swiglu_backward(const Stream<CudaDevice<S>>& stream, const SwigluBackward<CudaDevice<S>>& op);

}  // namespace longlora
