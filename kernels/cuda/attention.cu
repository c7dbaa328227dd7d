// The passes over the tiles are in attention_forward.cu, attention_backward.cu, attention_simple.cu and
// hopper/.
#include <cmath>
#include <type_traits>

#include "kernels/cuda/attention_choice.hpp"
#include "kernels/cuda/attention_passes.hpp"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"

namespace longlora {
namespace {

constexpr int fill_threads = 256;
constexpr int fill_columns = 1024;  // of one block

template <class Device, class T>
__global__ void fill_kernel(View<Device, T, 2> to, float value) {
    T* row = to.row(blockIdx.x);
    const Index first = Index{blockIdx.y} * fill_columns;
    for (int i = threadIdx.x; i < fill_columns && first + i < to.columns(); i += fill_threads) {
        store(row + first + i, value);
    }
}

template <class Device, class T>
void fill(const CudaStream& stream, View<Device, T, 2> to, float value) {
    const Grid grid{dim3(static_cast<unsigned>(to.rows()),
                         static_cast<unsigned>(ceil_div(to.columns(), fill_columns))),
                    dim3(fill_threads)};
    launch(stream, fill_kernel<Device, T>, grid, to, value);
}

constexpr int delta_threads = 256;

// A warp for each token and head.
template <class S>
__global__ void __launch_bounds__(delta_threads)
    attention_delta_kernel(AttentionDelta<CudaDevice<S>> op) {
    constexpr int warps = delta_threads / warp_threads;
    const Index heads = op.delta.rows();
    const Index pair = Index{blockIdx.x} * warps + threadIdx.x / warp_threads;
    const Index t = pair / heads;
    if (t >= op.out.rows()) {
        return;
    }
    const Index head = pair % heads;
    const Index depth = op.out.columns() / heads;
    const S* a = op.d_out.row(t) + head * depth;
    const S* b = op.out.row(t) + head * depth;
    float sum = 0;
    for (Index d = threadIdx.x % warp_threads; d < depth; d += warp_threads) {
        sum += load(a + d) * load(b + d);
    }
    sum = reduce_warp(sum, [](float x, float y) { return x + y; });
    if (threadIdx.x % warp_threads == 0) {
        op.delta.row(head)[t] = sum;
    }
}

// Float storage has one way only.
template <class S>
constexpr bool has_tensor_cores = std::is_same_v<S, BFloat16>;

}  // namespace

template <class S>
void attention_reset(const Stream<CudaDevice<S>>& stream, const AttentionReset<CudaDevice<S>>& op) {
    fill(stream, op.out, 0.0F);
    fill(stream, op.lse, -INFINITY);
}

template <class S>
void attention_delta(const Stream<CudaDevice<S>>& stream, const AttentionDelta<CudaDevice<S>>& op) {
    launch(stream, attention_delta_kernel<S>,
           grid_for(op.delta.rows() * op.delta.columns() * warp_threads, delta_threads), op);
}

template <class S>
void attention_forward(const Stream<CudaDevice<S>>& stream,
                       const AttentionForward<CudaDevice<S>>& op) {
    if constexpr (has_tensor_cores<S>) {
        const bool overlaps = chosen_attention_kernels() != AttentionKernels::hopper_in_turn;
        if (may_use_hopper() && hopper::attend(stream, op, overlaps)) {
            return;
        }
    }
    for_each_work(stream, query_tiles(op.items), [&](const AttentionWork& work) {
        if constexpr (has_tensor_cores<S>) {
            if (may_use_tensor_cores() && attend_by_tensor_cores(stream, op, work)) {
                return;
            }
        }
        attend_simply(stream, op, work);
    });
}

namespace {

template <class S>
void add_key_gradients(const Stream<CudaDevice<S>>& stream,
                       const AttentionBackward<CudaDevice<S>>& op) {
    if constexpr (has_tensor_cores<S>) {
        if (may_use_hopper() && hopper::add_key_gradients(stream, op)) {
            return;
        }
    }
    for_each_work(stream, key_tiles(op.items, op.queries_per_kv), [&](const AttentionWork& work) {
        if constexpr (has_tensor_cores<S>) {
            if (may_use_tensor_cores() && add_key_gradients_by_tensor_cores(stream, op, work)) {
                return;
            }
        }
        add_key_gradients_simply(stream, op, work);
    });
}

template <class S>
void add_query_gradients(const Stream<CudaDevice<S>>& stream,
                         const AttentionBackward<CudaDevice<S>>& op) {
    if constexpr (has_tensor_cores<S>) {
        if (may_use_hopper() && hopper::add_query_gradients(stream, op)) {
            return;
        }
    }
    for_each_work(stream, query_tiles(op.items), [&](const AttentionWork& work) {
        if constexpr (has_tensor_cores<S>) {
            if (may_use_tensor_cores() && add_query_gradients_by_tensor_cores(stream, op, work)) {
                return;
            }
        }
        add_query_gradients_simply(stream, op, work);
    });
}

}  // namespace

// Two passes, each of which has its sums for itself: no order of threads shows in them.
template <class S>
void attention_backward(const Stream<CudaDevice<S>>& stream,
                        const AttentionBackward<CudaDevice<S>>& op) {
    add_key_gradients(stream, op);
    add_query_gradients(stream, op);
}

#define LONGLORA_ATTENTION(S)                                                \
    template void attention_reset(const Stream<CudaDevice<S>>&,              \
                                  const AttentionReset<CudaDevice<S>>&);     \
    template void attention_delta(const Stream<CudaDevice<S>>&,              \
                                  const AttentionDelta<CudaDevice<S>>&);     \
    template void attention_forward(const Stream<CudaDevice<S>>&,            \
                                    const AttentionForward<CudaDevice<S>>&); \
    template void attention_backward(const Stream<CudaDevice<S>>&,           \
                                     const AttentionBackward<CudaDevice<S>>&);
LONGLORA_ATTENTION(BFloat16)
LONGLORA_ATTENTION(float)
#undef LONGLORA_ATTENTION

}  // namespace longlora
