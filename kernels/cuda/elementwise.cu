#include <algorithm>
#include <cassert>

#include "core/random.hpp"
#include "kernels/cuda/parts.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/elementwise.hpp"

namespace longlora {
namespace {

template <class Device, class T, bool is_packed>
__global__ void copy_kernel(Copy<Device, T> op) {
    for_parts<part_width<T>, is_packed>(
        op.out.rows(), op.out.columns(),
        [&](Index t, const auto& part) { part.copy(op.x.row(t), op.out.row(t)); });
}

template <class Device, class T>
void start_copy(const Stream<Device>& stream, const Copy<Device, T>& op) {
    assert(op.x.rows() == op.out.rows() && op.x.columns() == op.out.columns());
    constexpr int width = part_width<T>;
    launch(stream,
           are_packable<width>(op.x, op.out) ? copy_kernel<Device, T, true>
                                             : copy_kernel<Device, T, false>,
           grid_for_parts(op.out.rows(), op.out.columns(), width), op);
}

constexpr int float_width = part_width<float>;

template <class Device, bool is_packed>
__global__ void accumulate_kernel(Accumulate<Device, float> op) {
    for_parts<float_width, is_packed>(op.out.rows(), op.out.columns(),
                                      [&](Index t, const auto& part) {
                                          const auto x = part.load(op.x.row(t));
                                          auto out = part.load(op.out.row(t));
                                          for (int i = 0; i < float_width; ++i) {
                                              out[i] += x[i];
                                          }
                                          part.store(op.out.row(t), out);
                                      });
}

// A thread reads all of its part before it writes, so that out may be the memory of x.
template <class Device, bool is_packed>
__global__ void convert_kernel(Convert<Device> op) {
    for_parts<float_width, is_packed>(op.out.rows(), op.out.columns(),
                                      [&](Index t, const auto& part) {
                                          auto x = part.load(op.x.row(t));
                                          for (int i = 0; i < float_width; ++i) {
                                              x[i] *= op.scale;
                                          }
                                          part.store(op.out.row(t), x);
                                      });
}

template <class Device, class T, bool is_packed>
__global__ void dropout_kernel(Dropout<Device, T> op, float scale) {
    constexpr int width = part_width<T>;
    for_parts<width, is_packed>(op.x.rows(), op.x.columns(), [&](Index t, const auto& part) {
        const auto place =
            static_cast<std::uint64_t>((op.first_row + t) * op.x.columns() + part.first);
        auto value = part.load(op.x.row(t));
        for (int i = 0; i < width; ++i) {
            const auto index = place + static_cast<std::uint64_t>(i);
            const bool is_dropped = random_uniform(op.key, index) < op.probability;
            value[i] = is_dropped ? 0.0F : value[i] * scale;
        }
        if (op.accumulate) {
            const auto before = part.load(op.out.row(t));
            for (int i = 0; i < width; ++i) {
                value[i] += before[i];
            }
        }
        part.store(op.out.row(t), value);
    });
}

template <class Device, class T>
void start_dropout(const Stream<Device>& stream, const Dropout<Device, T>& op) {
    assert(op.x.rows() == op.out.rows() && op.x.columns() == op.out.columns());
    constexpr int width = part_width<T>;
    launch(stream,
           are_packable<width>(op.x, op.out) ? dropout_kernel<Device, T, true>
                                             : dropout_kernel<Device, T, false>,
           grid_for_parts(op.x.rows(), op.x.columns(), width), op,
           static_cast<float>(1 / (1 - op.probability)));
}

constexpr int norm_threads = 256;

// A block for each piece. The squares are exact in double.
template <class Device, bool is_packed>
__global__ void squared_norms_kernel(SquaredNorms<Device> op) {
    const Index begin = Index{blockIdx.x} * op.piece;
    const float* x = op.x.data() + begin;
    double squares = 0;
    for_parts_of_row<norm_threads, float_width, is_packed>(
        std::min(op.piece, op.x.size() - begin), [&](const auto& part) {
            const auto values = part.load(x);
            for (int i = 0; i < float_width; ++i) {
                const double value = values[i];
                squares += value * value;
            }
        });
    squares = block_sum<norm_threads>(squares);
    if (threadIdx.x == 0) {
        op.squares[blockIdx.x] = squares;
    }
}

}  // namespace

template <class S>
void copy(const Stream<CudaDevice<S>>& stream, const Copy<CudaDevice<S>, float>& op) {
    start_copy(stream, op);
}
template <class S>
void copy(const Stream<CudaDevice<S>>& stream, const Copy<CudaDevice<S>, BFloat16>& op) {
    start_copy(stream, op);
}

template <class S>
void accumulate(const Stream<CudaDevice<S>>& stream, const Accumulate<CudaDevice<S>, float>& op) {
    using Device = CudaDevice<S>;
    assert(op.x.rows() == op.out.rows() && op.x.columns() == op.out.columns());
    launch(stream,
           are_packable<float_width>(op.x, op.out) ? accumulate_kernel<Device, true>
                                                   : accumulate_kernel<Device, false>,
           grid_for_parts(op.out.rows(), op.out.columns(), float_width), op);
}

template <class S>
void convert(const Stream<CudaDevice<S>>& stream, const Convert<CudaDevice<S>>& op) {
    using Device = CudaDevice<S>;
    assert(op.x.rows() == op.out.rows() && op.x.columns() == op.out.columns());
    launch(stream,
           are_packable<float_width>(op.x, op.out) ? convert_kernel<Device, true>
                                                   : convert_kernel<Device, false>,
           grid_for_parts(op.out.rows(), op.out.columns(), float_width), op);
}

template <class S>
void dropout(const Stream<CudaDevice<S>>& stream, const Dropout<CudaDevice<S>, float>& op) {
    start_dropout(stream, op);
}
template <class S>
void dropout(const Stream<CudaDevice<S>>& stream, const Dropout<CudaDevice<S>, BFloat16>& op) {
    start_dropout(stream, op);
}

template <class S>
void squared_norms(const Stream<CudaDevice<S>>& stream, const SquaredNorms<CudaDevice<S>>& op) {
    using Device = CudaDevice<S>;
    const bool is_packed = is_packable<float_width>(op.x) && op.piece % float_width == 0;
    const Grid grid{dim3(static_cast<unsigned>(op.squares.size())), dim3(norm_threads)};
    launch(stream,
           is_packed ? squared_norms_kernel<Device, true> : squared_norms_kernel<Device, false>,
           grid, op);
}

template void copy(const Stream<Cuda>&, const Copy<Cuda, float>&);
template void copy(const Stream<Cuda>&, const Copy<Cuda, BFloat16>&);
template void copy(const Stream<CudaFloat>&, const Copy<CudaFloat, float>&);
template void copy(const Stream<CudaFloat>&, const Copy<CudaFloat, BFloat16>&);
template void accumulate(const Stream<Cuda>&, const Accumulate<Cuda, float>&);
template void accumulate(const Stream<CudaFloat>&, const Accumulate<CudaFloat, float>&);
template void convert(const Stream<Cuda>&, const Convert<Cuda>&);
template void convert(const Stream<CudaFloat>&, const Convert<CudaFloat>&);
template void dropout(const Stream<Cuda>&, const Dropout<Cuda, float>&);
template void dropout(const Stream<Cuda>&, const Dropout<Cuda, BFloat16>&);
template void dropout(const Stream<CudaFloat>&, const Dropout<CudaFloat, float>&);
template void dropout(const Stream<CudaFloat>&, const Dropout<CudaFloat, BFloat16>&);
template void squared_norms(const Stream<Cuda>&, const SquaredNorms<Cuda>&);
template void squared_norms(const Stream<CudaFloat>&, const SquaredNorms<CudaFloat>&);

}  // namespace longlora
