#pragma once

// CUDA's words for where code runs and where data lie. __noinline__ is missing: the standard library
// uses that word for an attribute; [[gnu::noinline]] says the same to every compiler.
#define __host__
#define __device__
#define __global__
#define __constant__
#define __grid_constant__
#define __launch_bounds__(...)
#define __shared__ static  // blocks run one after another
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(n) alignas(n)
