#pragma once

#include <tuple>
#include <utility>

#include "cuda_runtime_api.h"
#include "device_atomic_functions.h"
#include "device_functions.h"
#include "device_launch_parameters.h"
#include "emulator.hpp"
#include "vector_functions.h"
#include "warp_functions.h"

// What CUDA's header of this name adds to the runtime: templates, and what kernels call.

template <class T>
cudaError_t cudaMalloc(T** memory, std::size_t bytes) {
    return cudaMalloc(reinterpret_cast<void**>(memory), bytes);
}
template <class T>
cudaError_t cudaMallocHost(T** memory, std::size_t bytes) {
    return cudaMallocHost(reinterpret_cast<void**>(memory), bytes);
}
template <class T>
cudaError_t cudaHostAlloc(T** memory, std::size_t bytes, unsigned flags) {
    return cudaHostAlloc(reinterpret_cast<void**>(memory), bytes, flags);
}

template <class T>
cudaError_t cudaFuncSetAttribute(T* kernel, cudaFuncAttribute attribute, int value) {
    return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), attribute, value);
}
template <class T>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, T kernel, int threads,
                                                          std::size_t shared_bytes) {
    return cudaOccupancyMaxActiveBlocksPerMultiprocessor(
        blocks, reinterpret_cast<const void*>(kernel), threads, shared_bytes);
}

// A __constant__ or __device__ variable is an ordinary one.
template <class T>
cudaError_t cudaMemcpyToSymbol(T& symbol, const void* from, std::size_t bytes) {
    return bytes <= sizeof symbol ? cudaMemcpy(&symbol, from, bytes, cudaMemcpyDefault)
                                  : cudaErrorInvalidValue;
}

namespace longlora::emulator {
// Whether CUDA would start such a kernel.
cudaError_t check_launch(const void* kernel, const cudaLaunchConfig_t& config);
}  // namespace longlora::emulator

// Runs the kernel to its end. Throws longlora::emulator::Failure where a GPU would hang or go wrong.
template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
    namespace emulator = longlora::emulator;
    const cudaError_t status =
        emulator::check_launch(reinterpret_cast<const void*>(kernel), *config);
    if (status != cudaSuccess) {
        return status;
    }
    const std::tuple<Parameters...> parameters(std::forward<Arguments>(arguments)...);
    const auto call = [&] { std::apply(kernel, parameters); };
    emulator::run({config->gridDim, config->blockDim, config->dynamicSmemBytes, &typeid(kernel)},
                  emulator::Body(call));
    return cudaSuccess;
}
