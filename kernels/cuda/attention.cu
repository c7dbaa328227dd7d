// The passes over the tiles are in attention_forward.cu, attention_backward.cu, attention_simple.cu and
// hopper/.
#include <cmath>
#include <type_traits>

#include "kernels/cuda/attention_choice.hpp"
#include "kernels/cuda/attention_passes.hpp"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/parts.cuh"

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
constexpr int delta_lanes = 16;  // that share a head: 128 elements of bfloat16, 16 bytes each
constexpr int delta_tokens = 4;  // of theirs, so that enough reads are under way
constexpr int delta_tile = delta_threads / delta_lanes * delta_tokens;

// A block for some tokens of one head; the heads of the same tokens follow one another, so that rows are
// read whole.
template <class S, bool is_packed>
__global__ void __launch_bounds__(delta_threads)
    attention_delta_kernel(AttentionDelta<CudaDevice<S>> op, int heads, int depth) {
    constexpr int width = part_width<S>;
    const int head = static_cast<int>(blockIdx.x) % heads;
    const int lane = static_cast<int>(threadIdx.x) % delta_lanes;
    const Index tokens = op.out.rows();
    const Index first = Index{static_cast<int>(blockIdx.x) / heads} * delta_tile +
                        static_cast<int>(threadIdx.x) / delta_lanes * delta_tokens;
    float sums[delta_tokens] = {};
    for (int column = lane * width; column < depth; column += delta_lanes * width) {
        const Part<width, is_packed> part{column, depth};
#pragma unroll
        for (int i = 0; i < delta_tokens; ++i) {
            const Index t = std::min(first + i, tokens - 1);
            const auto a = part.load(op.d_out.row(t) + Index{head} * depth);
            const auto b = part.load(op.out.row(t) + Index{head} * depth);
#pragma unroll
            for (int j = 0; j < width; ++j) {
                sums[i] = fmaf(a[j], b[j], sums[i]);
            }
        }
    }
#pragma unroll
    for (int i = 0; i < delta_tokens; ++i) {
#pragma unroll
        for (int distance = delta_lanes / 2; distance > 0; distance /= 2) {
            sums[i] += __shfl_xor_sync(0xFFFFFFFFU, sums[i], distance);
        }
        if (lane == i && first + i < tokens) {
            op.delta.row(head)[first + i] = sums[i];
        }
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
    const Index heads = op.delta.rows();
    if (heads == 0) {
        return;
    }
    constexpr int width = part_width<S>;
    const int depth = static_cast<int>(op.out.columns() / heads);
    const bool is_packed = depth % width == 0 && are_packable<width>(op.d_out, op.out);
    const Grid grid{dim3(static_cast<unsigned>(ceil_div(op.out.rows(), Index{delta_tile}) * heads)),
                    dim3(delta_threads)};
    launch(stream, is_packed ? attention_delta_kernel<S, true> : attention_delta_kernel<S, false>,
           grid, op, static_cast<int>(heads), depth);
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
        const bool stay = chosen_attention_kernels() != AttentionKernels::hopper_in_turn;
        if (may_use_hopper() && hopper::add_key_gradients(stream, op, stay)) {
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
        const bool stay = chosen_attention_kernels() != AttentionKernels::hopper_in_turn;
        if (may_use_hopper() && hopper::add_query_gradients(stream, op, stay)) {
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
    if (!op.overwrites || are_apart(op.items, op.queries_per_kv)) {
        add_key_gradients(stream, op);
        add_query_gradients(stream, op);
        return;
    }
    fill(stream, op.d_q, 0.0F);
    fill(stream, op.d_k, 0.0F);
    fill(stream, op.d_v, 0.0F);
    auto adding = op;
    adding.overwrites = false;
    attention_backward(stream, adding);
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
