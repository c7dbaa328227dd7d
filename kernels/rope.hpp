#pragma once

#include "core/stream.hpp"

// Rotary position embedding in Hugging Face's layout: pair (i, i + D/2) of each head is turned by
// angle[t,i]; x' = x cos - y sin, y' = y cos + x sin.                   (Su et al., RoFormer, 2021)
namespace longlora {

template <class Device>
struct Rope {
    View<Device, Element<Device>, 2> x;   // (T, heads D), turned in place
    View<Device, const float, 2> cosine;  // (T, D/2)
    View<Device, const float, 2> sine;    // (T, D/2)
};

// Turns a gradient back: d_x = d_y cos + ..., the transpose.
template <class Device>
struct RopeGradient {
    View<Device, const float, 2> d_y;      // (T, heads D)
    View<Device, const float, 2> cosine;   // (T, D/2)
    View<Device, const float, 2> sine;     // (T, D/2)
    View<Device, Element<Device>, 2> d_x;  // (T, heads D) may be the memory of d_y
};

// cosine[t,i] = cos((first_position + t) / factor theta^(-2i/D)), the angle in double.
template <class Device>
struct RotaryTable {
    Index first_position;
    double theta;
    double factor;                  // of linear scaling, 1 without
    View<Device, float, 2> cosine;  // (T, D/2)
    View<Device, float, 2> sine;    // (T, D/2)
};

void rope(const Stream<Cpu>& stream, const Rope<Cpu>& op);
template <class S>
void rope(const Stream<CudaDevice<S>>& stream, const Rope<CudaDevice<S>>& op);
void rope_gradient(const Stream<Cpu>& stream, const RopeGradient<Cpu>& op);
template <class S>
void rope_gradient(const Stream<CudaDevice<S>>& stream, const RopeGradient<CudaDevice<S>>& op);
void rotary_table(const Stream<Cpu>& stream, const RotaryTable<Cpu>& op);
template <class S>
void rotary_table(const Stream<CudaDevice<S>>& stream, const RotaryTable<CudaDevice<S>>& op);

}  // namespace longlora
