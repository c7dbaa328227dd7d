#include <cassert>
#include <cmath>

#include "kernels/cuda/parts.cuh"
#include "kernels/rope.hpp"

namespace longlora {
namespace {

// out = from, turned by the angle (or, with sign -1, back)
template <class Device, class From>
struct Turn {
    View<Device, const From, 2> from;
    View<Device, Element<Device>, 2> out;
    View<Device, const float, 2> cosine;
    View<Device, const float, 2> sine;
    float sign;
};

// A thread has `width` pairs of one head, and reads them before it writes: out may be in place.
template <class Device, class From, int width>
__global__ void turn_kernel(Turn<Device, From> op) {
    const Index half = op.cosine.columns();
    for_parts<width, true>(op.out.rows(), op.out.columns() / 2, [&](Index t, const auto& part) {
        const Index head = part.first / half;
        const Part<width, true> angle{part.first - head * half, half};
        const Part<width, true> left{part.first + head * half, op.out.columns()};
        const Part<width, true> right{left.first + half, op.out.columns()};
        const auto cosine = angle.load(op.cosine.row(t));
        const auto sine = angle.load(op.sine.row(t));
        auto x = left.load(op.from.row(t));
        auto y = right.load(op.from.row(t));
        for (int i = 0; i < width; ++i) {
            const float s = op.sign * sine[i];
            const float turned = fmaf(x[i], cosine[i], -(y[i] * s));
            y[i] = fmaf(y[i], cosine[i], x[i] * s);
            x[i] = turned;
        }
        left.store(op.out.row(t), x);
        right.store(op.out.row(t), y);
    });
}

template <class Device, class From>
void turn(const Stream<Device>& stream, const Turn<Device, From>& op) {
    [[maybe_unused]] const Index half = op.cosine.columns();
    assert(half == 0 || op.out.columns() % (2 * half) == 0);
    constexpr int width = part_width<From>;  // a part of one column always fits
    const bool is_packed = are_packable<width>(op.from, op.out, op.cosine, op.sine);
    launch(stream, is_packed ? turn_kernel<Device, From, width> : turn_kernel<Device, From, 1>,
           grid_for_parts(op.out.rows(), op.out.columns() / 2, is_packed ? width : 1), op);
}

template <class Device>
__global__ void rotary_table_kernel(RotaryTable<Device> op) {
    const auto head_dim = static_cast<double>(2 * op.cosine.columns());
    for_parts<1, true>(op.cosine.rows(), op.cosine.columns(), [&](Index t, const auto& part) {
        const Index i = part.first;
        const double frequency = pow(op.theta, -2.0 * static_cast<double>(i) / head_dim);
        const double angle = static_cast<double>(op.first_position + t) / op.factor * frequency;
        op.cosine.row(t)[i] = static_cast<float>(cos(angle));
        op.sine.row(t)[i] = static_cast<float>(sin(angle));
    });
}

}  // namespace

template <class S>
void rope(const Stream<CudaDevice<S>>& stream, const Rope<CudaDevice<S>>& op) {
    turn(stream, Turn<CudaDevice<S>, S>{op.x, op.x, op.cosine, op.sine, 1.0F});
}

template <class S>
void rope_gradient(const Stream<CudaDevice<S>>& stream, const RopeGradient<CudaDevice<S>>& op) {
    turn(stream, Turn<CudaDevice<S>, float>{op.d_y, op.d_x, op.cosine, op.sine, -1.0F});
}

template <class S>
void rotary_table(const Stream<CudaDevice<S>>& stream, const RotaryTable<CudaDevice<S>>& op) {
    launch(stream, rotary_table_kernel<CudaDevice<S>>,
           grid_for_parts(op.cosine.rows(), op.cosine.columns(), 1), op);
}

template void rope(const Stream<Cuda>&, const Rope<Cuda>&);
template void rope(const Stream<CudaFloat>&, const Rope<CudaFloat>&);
template void rope_gradient(const Stream<Cuda>&, const RopeGradient<Cuda>&);
template void rope_gradient(const Stream<CudaFloat>&, const RopeGradient<CudaFloat>&);
template void rotary_table(const Stream<Cuda>&, const RotaryTable<Cuda>&);
template void rotary_table(const Stream<CudaFloat>&, const RotaryTable<CudaFloat>&);

}  // namespace longlora
