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
    bool is_inverse = false;              // turns back: the transpose, for gradients
};

void rope(const Stream<Cpu>& stream, const Rope<Cpu>& op);

}  // namespace longlora
