#pragma once

#include "core/stream.hpp"

// y[t,e] = w[e] n[t,e],   n[t,e] = x[t,e] r[t],   r[t] = (mean_e x[t,e]^2 + eps)^(-1/2)
//                                                                              (Zhang, Sennrich 2019)
// n is rounded to the storage type before it is multiplied, whether it is kept or not: y made again
// from it has the same bits.
namespace longlora {

template <class Device>
struct RmsNormForward {
    View<Device, const float, 2> x;               // (T, E) residual stream
    View<Device, const float, 1> weight;          // (E)
    View<Device, Element<Device>, 2> y;           // (T, E)
    View<Device, Element<Device>, 2> normalised;  // (T, E) n, kept for backward; or no rows
    View<Device, float, 1> rstd;                  // (T)  r, kept for backward
    float epsilon;
};

// y = w n
template <class Device>
struct RmsNormAgain {
    View<Device, const Element<Device>, 2> normalised;  // (T, E)
    View<Device, const float, 1> weight;                // (E)
    View<Device, Element<Device>, 2> y;                 // (T, E)
};

// g = dy w     d_x += r (g - n mean_e(g n))     d_weight += sum_t dy n
template <class Device>
struct RmsNormBackward {
    View<Device, const float, 2> d_y;                   // (T, E)
    View<Device, const Element<Device>, 2> normalised;  // (T, E) n
    View<Device, const float, 1> weight;                // (E)
    View<Device, const float, 1> rstd;                  // (T)
    View<Device, float, 2> d_x;       // (T, E) accumulated: the residual branch is in it already
    View<Device, float, 1> d_weight;  // (E) accumulated; empty (size 0) where the norm is frozen
};

void rms_norm_forward(const Stream<Cpu>& stream, const RmsNormForward<Cpu>& op);
template <class S>
void rms_norm_forward(const Stream<CudaDevice<S>>& stream, const RmsNormForward<CudaDevice<S>>& op);
void rms_norm_again(const Stream<Cpu>& stream, const RmsNormAgain<Cpu>& op);
template <class S>
void rms_norm_again(const Stream<CudaDevice<S>>& stream, const RmsNormAgain<CudaDevice<S>>& op);
void rms_norm_backward(const Stream<Cpu>& stream, const RmsNormBackward<Cpu>& op);
template <class S>
void rms_norm_backward(const Stream<CudaDevice<S>>& stream,
                       const RmsNormBackward<CudaDevice<S>>& op);

}  // namespace longlora
