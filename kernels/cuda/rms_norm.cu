#include <algorithm>
#include <cmath>

#include "kernels/cuda/machine.cuh"
#include "kernels/cuda/parts.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/rms_norm.hpp"

namespace longlora {
namespace {

constexpr int width = part_width<float>;
using Floats = Pack<float, width>;
using Stretch = WarpStretch<width>;

Grid grid_of_rows(Index rows, unsigned threads) {
    return {dim3(static_cast<unsigned>(rows)), dim3(threads)};
}

template <class S>
__device__ float rounded(float x) {
    S stored;
    store(&stored, x);
    return load(&stored);
}

__device__ inline void add_squares(const Floats& x, float& squares) {
#pragma unroll
    for (int j = 0; j < width; ++j) {
        squares = fmaf(x[j], x[j], squares);
    }
}

// 1 / root mean square of row t, kept; the same for all threads
template <class Device>
__device__ float write_rstd(const RmsNormForward<Device>& op, Index t, float squares) {
    const float mean = sum_of_block(squares) / static_cast<float>(op.x.columns());
    const float rstd = 1.0F / sqrtf(mean + op.epsilon);
    if (threadIdx.x == 0) {
        op.rstd[t] = rstd;
    }
    return rstd;
}

template <class Device, class P>
__device__ void write_part(const RmsNormForward<Device>& op, Index t, const P& part, Floats x,
                           float rstd) {
    auto y = part.load(op.weight.data());
#pragma unroll
    for (int j = 0; j < width; ++j) {
        x[j] = rounded<Element<Device>>(x[j] * rstd);
        y[j] *= x[j];
    }
    part.store(op.y.row(t), y);
    if (op.normalised.rows() > 0) {
        part.store(op.normalised.row(t), x);
    }
}

// A block has a row, each thread a stretch of it in registers.
template <class Device>
__global__ void __launch_bounds__(1024) rms_norm_forward_held_kernel(RmsNormForward<Device> op) {
    const Index t = blockIdx.x;
    const Index columns = op.x.columns();
    Floats x[Stretch::parts];
    for_held_parts<width>(columns, [&](int i, const auto& part) { x[i] = part.load(op.x.row(t)); });
    float squares = 0;
    for_held_parts<width>(columns, [&](int i, const auto&) { add_squares(x[i], squares); });
    const float rstd = write_rstd(op, t, squares);
    for_held_parts<width>(columns,
                          [&](int i, const auto& part) { write_part(op, t, part, x[i], rstd); });
}

// The same for any row, with the same bits: read again where it is used again.
template <class Device, bool is_packed>
__global__ void __launch_bounds__(1024) rms_norm_forward_kernel(RmsNormForward<Device> op) {
    const Index t = blockIdx.x;
    const Index columns = op.x.columns();
    float squares = 0;
    for_stretches<width, is_packed>(
        columns, [&](const auto& part) { add_squares(part.load(op.x.row(t)), squares); });
    const float rstd = write_rstd(op, t, squares);
    for_stretches<width, is_packed>(
        columns, [&](const auto& part) { write_part(op, t, part, part.load(op.x.row(t)), rstd); });
}

constexpr int threads_again = 256;

template <class Device, bool is_packed>
__global__ void rms_norm_again_kernel(RmsNormAgain<Device> op) {
    const Index t = blockIdx.x;
    for_parts_of_row<threads_again, width, is_packed>(op.y.columns(), [&](const auto& part) {
        const auto n = part.load(op.normalised.row(t));
        auto y = part.load(op.weight.data());
        for (int i = 0; i < width; ++i) {
            y[i] *= n[i];
        }
        part.store(op.y.row(t), y);
    });
}

// A block has a slab of rows, one after the other, and reads each once.
constexpr Index rows_per_slab = 16;

// sum += x y
__device__ inline void add_products(const Floats& x, const Floats& y, Floats& sum) {
#pragma unroll
    for (int j = 0; j < width; ++j) {
        sum[j] = fmaf(x[j], y[j], sum[j]);
    }
}

// d_y becomes g = dy w; dot += g n
__device__ inline void weigh(Floats& d_y, const Floats& weight, const Floats& n, float& dot) {
#pragma unroll
    for (int j = 0; j < width; ++j) {
        d_y[j] *= weight[j];
        dot = fmaf(d_y[j], n[j], dot);
    }
}

// d_x += r (g - n mean)
__device__ inline void add_gradient(float rstd, float mean, const Floats& g, const Floats& n,
                                    Floats& d_x) {
#pragma unroll
    for (int j = 0; j < width; ++j) {
        d_x[j] = fmaf(rstd, fmaf(-n[j], mean, g[j]), d_x[j]);
    }
}

__device__ inline Range rows_of_slab(Index rows) {
    const Index begin = Index{blockIdx.x} * rows_per_slab;
    return {begin, std::min(begin + rows_per_slab, rows)};
}

// d_x, and slabs[s,e] = sum of dy n over the rows of slab s where slabs is not null. Each thread has a
// stretch of a row in registers, and of the sum in shared memory, where no other thread comes to it: in
// registers it would leave too few blocks room, whose reads are to hide one another's time.
template <class Device>
__global__ void __launch_bounds__(1024)
    rms_norm_backward_held_kernel(RmsNormBackward<Device> op, float* slabs) {
    const Index columns = op.d_x.columns();
    const bool is_frozen = slabs == nullptr;
    auto* const sums = reinterpret_cast<float*>(machine::dynamic_shared());
    if (!is_frozen) {
        for_held_parts<width>(columns, [&](int, const auto& part) { part.store(sums, Floats{}); });
    }
    const Range rows = rows_of_slab(op.d_x.rows());
#pragma unroll 1
    for (Index t = rows.begin; t < rows.end; ++t) {
        Floats g[Stretch::parts];
        Pack<Element<Device>, width> n[Stretch::parts];
        Floats d_x[Stretch::parts];
        const float rstd = op.rstd[t];
        for_held_parts<width>(columns, [&](int i, const auto& part) {
            g[i] = part.load(op.d_y.row(t));
            n[i] = part.fetch(op.normalised.row(t));
        });
        if (!is_frozen) {
            for_held_parts<width>(columns, [&](int i, const auto& part) {
                auto sum = part.load(sums);
                add_products(g[i], floats(n[i]), sum);
                part.store(sums, sum);
            });
        }
        // Not sooner: while sums are added registers are short.
        for_held_parts<width>(columns,
                              [&](int i, const auto& part) { d_x[i] = part.load(op.d_x.row(t)); });
        float dot = 0;
        for_held_parts<width>(columns, [&](int i, const auto& part) {
            weigh(g[i], part.load(op.weight.data()), floats(n[i]), dot);
        });
        const float mean = sum_of_block(dot) / static_cast<float>(columns);
        for_held_parts<width>(columns, [&](int i, const auto& part) {
            add_gradient(rstd, mean, g[i], floats(n[i]), d_x[i]);
            part.store(op.d_x.row(t), d_x[i]);
        });
    }
    if (!is_frozen) {
        float* const slab = slabs + Index{blockIdx.x} * columns;
        for_held_parts<width>(columns, [&](int, const auto& part) { part.copy(sums, slab); });
    }
}

// The same for any row, with the same bits: read again where it is used again.
template <class Device, bool is_packed>
__global__ void __launch_bounds__(1024)
    rms_norm_backward_kernel(RmsNormBackward<Device> op, float* slabs) {
    const Index columns = op.d_x.columns();
    const bool is_frozen = slabs == nullptr;
    float* const slab = is_frozen ? nullptr : slabs + Index{blockIdx.x} * columns;
    const Range rows = rows_of_slab(op.d_x.rows());
    for (Index t = rows.begin; t < rows.end; ++t) {
        float dot = 0;
        for_stretches<width, is_packed>(columns, [&](const auto& part) {
            auto d_y = part.load(op.d_y.row(t));
            const auto n = part.load(op.normalised.row(t));
            if (!is_frozen) {
                auto sum = t == rows.begin ? Floats{} : part.load(slab);
                add_products(d_y, n, sum);
                part.store(slab, sum);
            }
            weigh(d_y, part.load(op.weight.data()), n, dot);
        });
        const float mean = sum_of_block(dot) / static_cast<float>(columns);
        for_stretches<width, is_packed>(columns, [&](const auto& part) {
            auto g = part.load(op.d_y.row(t));
            const auto n = part.load(op.normalised.row(t));
            auto d_x = part.load(op.d_x.row(t));
            weigh(g, part.load(op.weight.data()), n, dot);
            add_gradient(op.rstd[t], mean, g, n, d_x);
            part.store(op.d_x.row(t), d_x);
        });
    }
}

constexpr int columns_of_sum = warp_threads;
constexpr int shares = 32;

// d_weight += sum_s slabs[s]: the slabs of a share in order, then the shares. A block has some columns,
// a warp a share of the slabs: one thread for all slabs of a column would wait for most of its reads.
template <class Device>
__global__ void __launch_bounds__(shares* warp_threads)
    rms_norm_weight_kernel(View<Device, float, 1> d_weight, const float* slabs, Index count) {
    __shared__ float sums[shares][columns_of_sum];
    const int lane = static_cast<int>(threadIdx.x) % warp_threads;
    const int share = static_cast<int>(threadIdx.x) / warp_threads;
    const Index columns = d_weight.size();
    const Index e = Index{blockIdx.x} * columns_of_sum + lane;
    const Index slabs_of_share = (count + shares - 1) / shares;
    const Index begin = share * slabs_of_share;
    const Index end = e < columns ? std::min(begin + slabs_of_share, count) : 0;
    float sum = 0;
#pragma unroll 8
    for (Index s = begin; s < end; ++s) {
        sum += slabs[s * columns + e];
    }
    sums[share][lane] = sum;
    __syncthreads();
    if (share == 0 && e < columns) {
        sum = d_weight[e];
        for (int i = 0; i < shares; ++i) {
            sum += sums[i][lane];
        }
        d_weight[e] = sum;
    }
}

template <class Device>
void launch_backward(const Stream<Device>& stream, const RmsNormBackward<Device>& op,
                     float* slabs) {
    const Index columns = op.d_x.columns();
    Grid grid = grid_of_rows(ceil_div(op.d_x.rows(), rows_per_slab), Stretch::threads(columns));
    const bool is_packed = are_packable<width>(op.normalised, op.d_y, op.weight, op.d_x);
    if (is_packed && Stretch::is_whole(columns)) {
        const std::size_t sum_bytes = sizeof(float) * static_cast<std::size_t>(columns);
        grid.shared_bytes = slabs == nullptr ? 0 : sum_bytes;
        launch(stream, rms_norm_backward_held_kernel<Device>, grid, op, slabs);
    } else {
        launch(stream,
               is_packed ? rms_norm_backward_kernel<Device, true>
                         : rms_norm_backward_kernel<Device, false>,
               grid, op, slabs);
    }
}

// As many slabs at a time as the workspace holds.
template <class Device>
void launch_backward_and_sums(const Stream<Device>& stream, const RmsNormBackward<Device>& op) {
    const Index columns = op.d_weight.size();
    const auto slab_bytes = static_cast<Index>(sizeof(float)) * columns;
    const Index most = static_cast<Index>(CudaStream::workspace_bytes) / slab_bytes;
    const Index most_rows = std::max<Index>(most, 1) * rows_per_slab;
    auto* const slabs = static_cast<float*>(stream.workspace());
    const Grid grid{dim3(static_cast<unsigned>(ceil_div(columns, Index{columns_of_sum}))),
                    dim3(shares * warp_threads)};
    for (Index begin = 0; begin < op.d_x.rows(); begin += most_rows) {
        const Range rows{begin, std::min(begin + most_rows, op.d_x.rows())};
        RmsNormBackward<Device> some = op;
        some.d_y = op.d_y.rows(rows);
        some.normalised = op.normalised.rows(rows);
        some.rstd = op.rstd.slice(rows);
        some.d_x = op.d_x.rows(rows);
        launch_backward(stream, some, slabs);
        launch(stream, rms_norm_weight_kernel<Device>, grid, op.d_weight, slabs,
               ceil_div(rows.size(), rows_per_slab));
    }
}

}  // namespace

template <class S>
void rms_norm_forward(const Stream<CudaDevice<S>>& stream,
                      const RmsNormForward<CudaDevice<S>>& op) {
    using Device = CudaDevice<S>;
    const Index columns = op.x.columns();
    const bool is_packed = are_packable<width>(op.x, op.weight, op.y, op.normalised);
    const auto kernel = is_packed && Stretch::is_whole(columns)
                            ? rms_norm_forward_held_kernel<Device>
                        : is_packed ? rms_norm_forward_kernel<Device, true>
                                    : rms_norm_forward_kernel<Device, false>;
    launch(stream, kernel, grid_of_rows(op.x.rows(), Stretch::threads(columns)), op);
}

template <class S>
void rms_norm_again(const Stream<CudaDevice<S>>& stream, const RmsNormAgain<CudaDevice<S>>& op) {
    using Device = CudaDevice<S>;
    launch(stream,
           are_packable<width>(op.normalised, op.weight, op.y)
               ? rms_norm_again_kernel<Device, true>
               : rms_norm_again_kernel<Device, false>,
           grid_of_rows(op.y.rows(), threads_again), op);
}

template <class S>
void rms_norm_backward(const Stream<CudaDevice<S>>& stream,
                       const RmsNormBackward<CudaDevice<S>>& op) {
    if (op.d_weight.size() > 0) {
        launch_backward_and_sums(stream, op);
    } else {
        launch_backward(stream, op, nullptr);
    }
}

template void rms_norm_forward(const Stream<Cuda>&, const RmsNormForward<Cuda>&);
template void rms_norm_forward(const Stream<CudaFloat>&, const RmsNormForward<CudaFloat>&);
template void rms_norm_again(const Stream<Cuda>&, const RmsNormAgain<Cuda>&);
template void rms_norm_again(const Stream<CudaFloat>&, const RmsNormAgain<CudaFloat>&);
template void rms_norm_backward(const Stream<Cuda>&, const RmsNormBackward<Cuda>&);
template void rms_norm_backward(const Stream<CudaFloat>&, const RmsNormBackward<CudaFloat>&);

}  // namespace longlora
