#include "kernels/cuda/machine.cuh"
#include "kernels/cuda/parts.cuh"
#include "kernels/swiglu.hpp"

namespace longlora {
namespace {

constexpr float log2_e = 1.44269504F;

// 1 / (1 + e^-x); 2^t becomes infinity or 0 at the ends, and NaN stays.
__device__ float sigmoid(float x) { return 1.0F / (1.0F + machine::exp2_fast(-log2_e * x)); }

template <class Device, bool is_packed>
__global__ void swiglu_forward_kernel(SwigluForward<Device> op) {
    constexpr int width = part_width<Element<Device>>;
    for_parts<width, is_packed>(op.out.rows(), op.out.columns(), [&](Index t, const auto& part) {
        const auto gate = part.load(op.gate.row(t));
        const auto up = part.load(op.up.row(t));
        auto out = up;
        for (int i = 0; i < width; ++i) {
            out[i] = gate[i] * sigmoid(gate[i]) * up[i];
        }
        part.store(op.out.row(t), out);
    });
}

constexpr int backward_width = part_width<float>;

// A thread reads all of its part before it writes: each gradient may be in place of its input.
template <class Device, bool is_packed>
__global__ void swiglu_backward_kernel(SwigluBackward<Device> op) {
    for_parts<backward_width, is_packed>(
        op.gate.rows(), op.gate.columns(), [&](Index t, const auto& part) {
            const auto d_out = part.load(op.d_out.row(t));
            auto gate = part.load(op.gate.row(t));
            auto up = part.load(op.up.row(t));
            for (int i = 0; i < backward_width; ++i) {
                const float g = gate[i];
                const float s = sigmoid(g);
                gate[i] = d_out[i] * up[i] * (s * (1.0F + g * (1.0F - s)));
                up[i] = d_out[i] * (g * s);
            }
            part.store(op.d_gate.row(t), gate);
            part.store(op.d_up.row(t), up);
        });
}

}  // namespace

template <class S>
void swiglu_forward(const Stream<CudaDevice<S>>& stream, const SwigluForward<CudaDevice<S>>& op) {
    using Device = CudaDevice<S>;
    constexpr int width = part_width<S>;
    launch(stream,
           are_packable<width>(op.gate, op.up, op.out) ? swiglu_forward_kernel<Device, true>
                                                       : swiglu_forward_kernel<Device, false>,
           grid_for_parts(op.out.rows(), op.out.columns(), width), op);
}

template <class S>
void swiglu_backward(const Stream<CudaDevice<S>>& stream, const SwigluBackward<CudaDevice<S>>& op) {
    using Device = CudaDevice<S>;
    const bool is_packed =
        are_packable<backward_width>(op.d_out, op.gate, op.up, op.d_gate, op.d_up);
    launch(stream,
           is_packed ? swiglu_backward_kernel<Device, true> : swiglu_backward_kernel<Device, false>,
           grid_for_parts(op.gate.rows(), op.gate.columns(), backward_width), op);
}

template void swiglu_forward(const Stream<Cuda>&, const SwigluForward<Cuda>&);
template void swiglu_forward(const Stream<CudaFloat>&, const SwigluForward<CudaFloat>&);
template void swiglu_backward(const Stream<Cuda>&, const SwigluBackward<Cuda>&);
template void swiglu_backward(const Stream<CudaFloat>&, const SwigluBackward<CudaFloat>&);

}  // namespace longlora
