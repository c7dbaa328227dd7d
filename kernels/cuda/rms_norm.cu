#include <algorithm>
#include <cmath>

#include "kernels/cuda/parts.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/rms_norm.hpp"

namespace longlora {
namespace {

// A block has a row; what it reads twice comes from the cache the second time.
constexpr int threads = 256;
constexpr int width = part_width<float>;

template <bool is_packed, class Body>
__device__ void for_row(Index columns, const Body& body) {
    for_parts_of_row<threads, width, is_packed>(columns, body);
}

template <class S>
__device__ float rounded(float x) {
    S stored;
    store(&stored, x);
    return load(&stored);
}

template <class Device, bool is_packed>
__global__ void rms_norm_forward_kernel(RmsNormForward<Device> op) {
    const Index t = blockIdx.x;
    const Index columns = op.x.columns();
    float squares = 0;
    for_row<is_packed>(columns, [&](const auto& part) {
        const auto x = part.load(op.x.row(t));
        for (int i = 0; i < width; ++i) {
            squares += x[i] * x[i];
        }
    });
    const float mean = block_sum<threads>(squares) / static_cast<float>(columns);
    const float rstd = 1.0F / sqrtf(mean + op.epsilon);
    if (threadIdx.x == 0) {
        op.rstd[t] = rstd;
    }
    for_row<is_packed>(columns, [&](const auto& part) {
        auto x = part.load(op.x.row(t));
        auto y = part.load(op.weight.data());
        for (int i = 0; i < width; ++i) {
            x[i] = rounded<Element<Device>>(x[i] * rstd);
            y[i] *= x[i];
        }
        part.store(op.y.row(t), y);
        if (op.normalised.rows() > 0) {
            part.store(op.normalised.row(t), x);
        }
    });
}

template <class Device, bool is_packed>
__global__ void rms_norm_again_kernel(RmsNormAgain<Device> op) {
    const Index t = blockIdx.x;
    for_row<is_packed>(op.y.columns(), [&](const auto& part) {
        const auto n = part.load(op.normalised.row(t));
        auto y = part.load(op.weight.data());
        for (int i = 0; i < width; ++i) {
            y[i] *= n[i];
        }
        part.store(op.y.row(t), y);
    });
}

// d_x
template <class Device, bool is_packed>
__global__ void rms_norm_backward_kernel(RmsNormBackward<Device> op) {
    const Index t = blockIdx.x;
    const Index columns = op.d_x.columns();
    const float rstd = op.rstd[t];
    float dot = 0;
    for_row<is_packed>(columns, [&](const auto& part) {
        const auto n = part.load(op.normalised.row(t));
        const auto d_y = part.load(op.d_y.row(t));
        const auto weight = part.load(op.weight.data());
        for (int i = 0; i < width; ++i) {
            dot += d_y[i] * weight[i] * n[i];
        }
    });
    const float mean = block_sum<threads>(dot) / static_cast<float>(columns);
    for_row<is_packed>(columns, [&](const auto& part) {
        const auto n = part.load(op.normalised.row(t));
        const auto d_y = part.load(op.d_y.row(t));
        const auto weight = part.load(op.weight.data());
        auto d_x = part.load(op.d_x.row(t));
        for (int i = 0; i < width; ++i) {
            const float difference = fmaf(-n[i], mean, d_y[i] * weight[i]);
            d_x[i] = fmaf(rstd, difference, d_x[i]);
        }
        part.store(op.d_x.row(t), d_x);
    });
}

// d_weight in two kernels, with the order of sums that the CPU has: rows of a slab, then slabs. One
// thread a column for all rows would leave most of the GPU idle, a slab a block in the kernel above
// too; and what is read again here comes from the second-level cache for the most part.
constexpr Index rows_per_slab = 64;

// parts[s,e] = sum of dy n over the rows of slab s
template <class Device>
__global__ void rms_norm_slabs_kernel(RmsNormBackward<Device> op, float* parts) {
    const Index columns = op.d_x.columns();
    const Index e = Index{blockIdx.x} * blockDim.x + threadIdx.x;
    if (e >= columns) {
        return;
    }
    const Index begin = Index{blockIdx.y} * rows_per_slab;
    const Index end = std::min(begin + rows_per_slab, op.d_x.rows());
    float sum = 0;
#pragma unroll 8
    for (Index t = begin; t < end; ++t) {
        sum += op.d_y.row(t)[e] * load(op.normalised.row(t) + e);
    }
    parts[Index{blockIdx.y} * columns + e] = sum;
}

// d_weight += sum_s parts[s]
template <class Device>
__global__ void rms_norm_weight_kernel(View<Device, float, 1> d_weight, const float* parts,
                                       Index slabs) {
    const Index e = Index{blockIdx.x} * blockDim.x + threadIdx.x;
    if (e >= d_weight.size()) {
        return;
    }
    float sum = d_weight[e];
    for (Index s = 0; s < slabs; ++s) {
        sum += parts[s * d_weight.size() + e];
    }
    d_weight[e] = sum;
}

// As many slabs at a time as the workspace holds.
template <class Device>
void add_weight_gradient(const Stream<Device>& stream, const RmsNormBackward<Device>& op) {
    const Index columns = op.d_weight.size();
    const auto row_bytes = static_cast<Index>(sizeof(float)) * columns;
    const Index slabs = static_cast<Index>(CudaStream::workspace_bytes) / row_bytes;
    const Index most_rows = std::clamp<Index>(slabs, 1, 65535) * rows_per_slab;
    auto* const parts = static_cast<float*>(stream.workspace());
    for (Index begin = 0; begin < op.d_x.rows(); begin += most_rows) {
        const Range rows{begin, std::min(begin + most_rows, op.d_x.rows())};
        RmsNormBackward<Device> some = op;
        some.d_y = op.d_y.rows(rows);
        some.normalised = op.normalised.rows(rows);
        some.d_x = op.d_x.rows(rows);
        Grid grid = grid_for(columns);
        grid.blocks.y = static_cast<unsigned>(ceil_div(rows.size(), rows_per_slab));
        launch(stream, rms_norm_slabs_kernel<Device>, grid, some, parts);
        launch(stream, rms_norm_weight_kernel<Device>, grid_for(columns), op.d_weight, parts,
               grid.blocks.y);
    }
}

Grid grid_of_rows(Index rows) { return {dim3(static_cast<unsigned>(rows)), dim3(threads)}; }

}  // namespace

template <class S>
void rms_norm_forward(const Stream<CudaDevice<S>>& stream,
                      const RmsNormForward<CudaDevice<S>>& op) {
    using Device = CudaDevice<S>;
    launch(stream,
           are_packable<width>(op.x, op.weight, op.y, op.normalised)
               ? rms_norm_forward_kernel<Device, true>
               : rms_norm_forward_kernel<Device, false>,
           grid_of_rows(op.x.rows()), op);
}

template <class S>
void rms_norm_again(const Stream<CudaDevice<S>>& stream, const RmsNormAgain<CudaDevice<S>>& op) {
    using Device = CudaDevice<S>;
    launch(stream,
           are_packable<width>(op.normalised, op.weight, op.y)
               ? rms_norm_again_kernel<Device, true>
               : rms_norm_again_kernel<Device, false>,
           grid_of_rows(op.y.rows()), op);
}

template <class S>
void rms_norm_backward(const Stream<CudaDevice<S>>& stream,
                       const RmsNormBackward<CudaDevice<S>>& op) {
    using Device = CudaDevice<S>;
    const bool is_packed = are_packable<width>(op.normalised, op.d_y, op.weight, op.d_x);
    launch(stream,
           is_packed ? rms_norm_backward_kernel<Device, true>
                     : rms_norm_backward_kernel<Device, false>,
           grid_of_rows(op.d_x.rows()), op);
    if (op.d_weight.size() > 0) {
        add_weight_gradient(stream, op);
    }
}

template void rms_norm_forward(const Stream<Cuda>&, const RmsNormForward<Cuda>&);
template void rms_norm_forward(const Stream<CudaFloat>&, const RmsNormForward<CudaFloat>&);
template void rms_norm_again(const Stream<Cuda>&, const RmsNormAgain<Cuda>&);
template void rms_norm_again(const Stream<CudaFloat>&, const RmsNormAgain<CudaFloat>&);
template void rms_norm_backward(const Stream<Cuda>&, const RmsNormBackward<Cuda>&);
template void rms_norm_backward(const Stream<CudaFloat>&, const RmsNormBackward<CudaFloat>&);

}  // namespace longlora
