#include <cassert>
#include <cfloat>
#include <cmath>

#include "kernels/cross_entropy.hpp"
#include "kernels/cuda/atomic.cuh"
#include "kernels/cuda/parts.cuh"
#include "kernels/cuda/reduce.cuh"

namespace longlora {
namespace {

// A block has a row and reads it twice: maximum and sum in one pass, then the gradient.
constexpr int threads = 512;
constexpr int width = part_width<float>;

template <bool is_packed, class Body>
__device__ void for_row(Index columns, const Body& body) {
    for_parts_of_row<threads, width, is_packed>(columns, body);
}

// sum = sum_i e^(z[i] - top), top = max_i z[i]
struct ExpSum {
    float top = -FLT_MAX;  // finite: e^(top - top) is a number where nothing has been seen, too
    float sum = 0;
};

template <bool is_packed>
__device__ ExpSum exp_sum_of_thread(const float* logits, Index columns) {
    ExpSum result;
    for_row<is_packed>(columns, [&](const auto& part) {
        const auto z = part.load(logits);
        float top = result.top;
        for (int i = 0; i < width; ++i) {
            top = is_packed || part.first + i < columns ? fmaxf(top, z[i]) : top;
        }
        float sum = result.sum * expf(result.top - top);
        for (int i = 0; i < width; ++i) {
            sum += is_packed || part.first + i < columns ? expf(z[i] - top) : 0.0F;
        }
        result = {top, sum};
    });
    return result;
}

// d_logits = (e^(z - top) / sum - one-hot) scale, in place where it has the logits' type.
template <class Device, bool is_packed>
__device__ void write_gradient(const CrossEntropy<Device>& op, float top, float factor) {
    const Index t = blockIdx.x;
    const Index label = op.labels.data()[t];
    for_row<is_packed>(op.logits.columns(), [&](const auto& part) {
        auto z = part.load(op.logits.row(t));
        for (int i = 0; i < width; ++i) {
            z[i] = expf(z[i] - top) * factor - (part.first + i == label ? op.scale : 0.0F);
        }
        part.store(op.d_logits.row(t), z);
    });
}

template <class Device, bool is_packed>
__global__ void cross_entropy_kernel(CrossEntropy<Device> op) {
    const Index t = blockIdx.x;
    const Index columns = op.logits.columns();
    const Index label = op.labels.data()[t];
    if (label == ignored_label) {
        if (threadIdx.x == 0) {
            op.loss.data()[t] = 0;
        }
        if (op.wants_gradient) {
            for_row<is_packed>(columns, [&](const auto& part) {
                part.store(op.d_logits.row(t), Pack<float, width>{});
            });
        }
        return;
    }
    assert(label >= 0 && label < columns);
    const float of_label = op.logits.row(t)[label];
    const ExpSum mine = exp_sum_of_thread<is_packed>(op.logits.row(t), columns);
    const float top = block_max<threads>(mine.top);
    // In double, as the pieces of the CPU's sum: a large vocabulary does not lose digits.
    const double sum = block_sum<threads>(static_cast<double>(mine.sum * expf(mine.top - top)));
    if (threadIdx.x == 0) {
        const double below_top = static_cast<double>(top) - static_cast<double>(of_label);
        op.loss.data()[t] = static_cast<float>(log(sum) + below_top);
    }
    if (op.wants_gradient) {
        const auto factor = static_cast<float>(static_cast<double>(op.scale) / sum);
        write_gradient<Device, is_packed>(op, top, factor);
    }
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
    const Grid grid{dim3(static_cast<unsigned>(op.logits.rows())), dim3(threads)};
    launch(stream,
           is_packed ? cross_entropy_kernel<Device, true> : cross_entropy_kernel<Device, false>,
           grid, op);
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
