#include <algorithm>
#include <cassert>
#include <cfloat>
#include <cmath>

#include "kernels/cross_entropy.hpp"
#include "kernels/cuda/atomic.cuh"
#include "kernels/cuda/machine.cuh"
#include "kernels/cuda/parts.cuh"
#include "kernels/cuda/reduce.cuh"

namespace longlora {
namespace {

// A block has a row and needs it twice: maximum and sum in one pass, then the gradient. From the first
// pass `kept` columns stay in shared memory, the rest is read again: whole rows of all blocks would be
// more than the second-level cache holds.
constexpr int threads = 512;
constexpr int blocks_of_multiprocessor = 2;
constexpr int width = part_width<float>;
constexpr int batch = 4;  // parts that a thread reads before it uses the first
constexpr Index sweep = Index{threads} * width;

// sum = sum_i e^(z[i] - top), top = max_i z[i]
struct ExpSum {
    float top = -FLT_MAX;  // finite: e^(top - top) is a number where nothing has been seen, too
    float sum = 0;
};

// Elements that are not there are -infinity: e^(z - top) = 0.
template <bool is_packed>
__device__ Pack<float, width> load_or_nothing(const Part<width, is_packed>& part,
                                              const float* logits) {
    Pack<float, width> z{};
    const bool is_there = part.first < part.columns;
    if (is_there) {
        z = part.load(logits);
    }
#pragma unroll
    for (int j = 0; j < width; ++j) {
        const bool has_element = is_packed ? is_there : part.first + j < part.columns;
        z[j] = has_element ? z[j] : -INFINITY;
    }
    return z;
}

template <bool is_packed>
__device__ ExpSum exp_sum_of_thread(const float* logits, Index columns, Index kept,
                                    float* kept_logits) {
    ExpSum result;
#pragma unroll 1
    for (Index begin = Index{threadIdx.x} * width; begin < columns; begin += batch * sweep) {
        Pack<float, width> z[batch];
#pragma unroll
        for (int i = 0; i < batch; ++i) {
            z[i] = load_or_nothing(Part<width, is_packed>{begin + i * sweep, columns}, logits);
        }
        float top = result.top;
#pragma unroll
        for (int i = 0; i < batch; ++i) {
#pragma unroll
            for (int j = 0; j < width; ++j) {
                top = fmaxf(top, z[i][j]);
            }
        }
        float sum = result.sum * expf(result.top - top);
#pragma unroll
        for (int i = 0; i < batch; ++i) {
            const Part<width, true> part{begin + i * sweep, columns};
            if (part.first < kept) {
                part.store(kept_logits, z[i]);
            }
#pragma unroll
            for (int j = 0; j < width; ++j) {
                sum += expf(z[i][j] - top);
            }
        }
        result = {top, sum};
    }
    return result;
}

// d_logits = (e^(z - top) / sum - one-hot) scale, in place where it has the logits' type. A thread finds
// in `kept_logits` what itself has put there.
template <class Device, bool is_packed>
__device__ void write_gradient(const CrossEntropy<Device>& op, float top, float factor, Index kept,
                               const float* kept_logits) {
    const Index t = blockIdx.x;
    const Index label = op.labels.data()[t];
    for_parts_of_row<threads, width, is_packed>(op.logits.columns(), [&](const auto& part) {
        auto z = part.first < kept ? Part<width, true>{part.first, kept}.load(kept_logits)
                                   : part.load(op.logits.row(t));
#pragma unroll
        for (int i = 0; i < width; ++i) {
            z[i] = expf(z[i] - top) * factor - (part.first + i == label ? op.scale : 0.0F);
        }
        part.store(op.d_logits.row(t), z);
    });
}

template <class Device, bool is_packed>
__global__ void __launch_bounds__(threads, blocks_of_multiprocessor)
    cross_entropy_kernel(CrossEntropy<Device> op, Index kept) {
    auto* const kept_logits = reinterpret_cast<float*>(machine::dynamic_shared());
    const Index t = blockIdx.x;
    const Index columns = op.logits.columns();
    const Index label = op.labels.data()[t];
    if (label == ignored_label) {
        if (threadIdx.x == 0) {
            op.loss.data()[t] = 0;
        }
        if (op.wants_gradient) {
            for_parts_of_row<threads, width, is_packed>(columns, [&](const auto& part) {
                part.store(op.d_logits.row(t), Pack<float, width>{});
            });
        }
        return;
    }
    assert(label >= 0 && label < columns);
    const float of_label = op.logits.row(t)[label];
    const ExpSum mine = exp_sum_of_thread<is_packed>(op.logits.row(t), columns, kept, kept_logits);
    const float top = block_max<threads>(mine.top);
    // In double, as the pieces of the CPU's sum: a large vocabulary does not lose digits.
    const double sum = block_sum<threads>(static_cast<double>(mine.sum * expf(mine.top - top)));
    if (threadIdx.x == 0) {
        const double below_top = static_cast<double>(top) - static_cast<double>(of_label);
        op.loss.data()[t] = static_cast<float>(log(sum) + below_top);
    }
    if (op.wants_gradient) {
        const auto factor = static_cast<float>(static_cast<double>(op.scale) / sum);
        write_gradient<Device, is_packed>(op, top, factor, kept, kept_logits);
    }
}

// Whole sweeps of the block, as many as the row needs and shared memory has room for.
Index kept_columns(Index columns) {
    int device = 0;
    int shared_bytes = 0;
    cuda_check(cudaGetDevice(&device), "find the device");
    cuda_check(
        cudaDeviceGetAttribute(&shared_bytes, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device),
        "find how much shared memory there is");
    constexpr Index reserved = 2048;  // 1024 bytes of each block, and what sums over a block need
    const Index room = shared_bytes / blocks_of_multiprocessor - reserved;
    const Index sweep_bytes = sweep * static_cast<Index>(sizeof(float));
    return sweep * std::min(ceil_div(columns, sweep), room / sweep_bytes);
}

constexpr int sum_threads = 256;
constexpr float largest_loss = 65536;

template <class Device>
__global__ void loss_sum_kernel(LossSum<Device> op) {
    const Index t = Index{blockIdx.x} * sum_threads + threadIdx.x;
    const float loss = t < op.loss.size() ? op.loss.data()[t] : 0.0F;
    const bool is_good = loss >= 0 && loss <= largest_loss;  // false for NaN
    if (!is_good) {
        add_atomically(op.sum.data() + 1, 1);
    }
    const long long units = is_good ? llrint(static_cast<double>(loss) * loss_one) : 0;
    const long long sum = block_sum<sum_threads>(units);
    if (threadIdx.x == 0) {
        add_atomically(op.sum.data(), sum);
    }
}

}  // namespace

template <class S>
void cross_entropy(const Stream<CudaDevice<S>>& stream, const CrossEntropy<CudaDevice<S>>& op) {
    using Device = CudaDevice<S>;
    const bool is_packed =
        are_packable<width>(op.logits) && (!op.wants_gradient || are_packable<width>(op.d_logits));
    const Index kept = op.wants_gradient ? kept_columns(op.logits.columns()) : 0;
    const Grid grid{dim3(static_cast<unsigned>(op.logits.rows())), dim3(threads),
                    sizeof(float) * static_cast<std::size_t>(kept)};
    launch(stream,
           is_packed ? cross_entropy_kernel<Device, true> : cross_entropy_kernel<Device, false>,
           grid, op, kept);
}

template <class S>
void loss_sum(const Stream<CudaDevice<S>>& stream, const LossSum<CudaDevice<S>>& op) {
    launch(stream, loss_sum_kernel<CudaDevice<S>>, grid_for(op.loss.size(), sum_threads), op);
}

template void cross_entropy(const Stream<Cuda>&, const CrossEntropy<Cuda>&);
template void cross_entropy(const Stream<CudaFloat>&, const CrossEntropy<CudaFloat>&);
template void loss_sum(const Stream<Cuda>&, const LossSum<Cuda>&);
template void loss_sum(const Stream<CudaFloat>&, const LossSum<CudaFloat>&);

}  // namespace longlora
