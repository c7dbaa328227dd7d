#pragma once

#include <cuda_runtime.h>

#include <cmath>

// Sums and maxima over the threads of a warp or a block, the same for each of them. The order is that
// of the threads' numbers, so the bits are a function of what the threads bring.
namespace longlora {

constexpr int warp_threads = 32;

// `combine` must not care which of its operands is the first.
template <class T, class Combine>
__device__ T reduce_warp(T x, const Combine& combine) {
#pragma unroll
    for (int distance = warp_threads / 2; distance > 0; distance /= 2) {
        x = combine(x, __shfl_xor_sync(0xFFFFFFFFU, x, distance));
    }
    return x;
}

// All `threads` of the block must call it.
template <int threads, class T, class Combine>
__device__ T reduce_block(T x, const Combine& combine) {
    static_assert(threads % warp_threads == 0);
    __shared__ T of_warp[threads / warp_threads];
    x = reduce_warp(x, combine);
    __syncthreads();  // what an earlier call left here has been read
    if (threadIdx.x % warp_threads == 0) {
        of_warp[threadIdx.x / warp_threads] = x;
    }
    __syncthreads();
    x = of_warp[0];
#pragma unroll
    for (int w = 1; w < threads / warp_threads; ++w) {
        x = combine(x, of_warp[w]);
    }
    return x;
}

template <int threads, class T>
__device__ T block_sum(T x) {
    return reduce_block<threads>(x, [](T a, T b) { return a + b; });
}

// The same where the launch decides how many threads there are: whole warps, up to 1024.
__device__ inline float sum_of_block(float x) {
    __shared__ float of_warp[1024 / warp_threads];
    x = reduce_warp(x, [](float a, float b) { return a + b; });
    __syncthreads();  // what an earlier call left here has been read
    if (threadIdx.x % warp_threads == 0) {
        of_warp[threadIdx.x / warp_threads] = x;
    }
    __syncthreads();
    x = of_warp[0];
    for (unsigned w = 1; w < blockDim.x / warp_threads; ++w) {
        x += of_warp[w];
    }
    return x;
}

// Of numbers; NaN is passed over.
template <int threads>
__device__ float block_max(float x) {
    return reduce_block<threads>(x, [](float a, float b) { return fmaxf(a, b); });
}

}  // namespace longlora
