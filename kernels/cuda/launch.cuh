#pragma once

#include <cuda_runtime.h>

#include "core/cuda_check.hpp"
#include "core/stream.hpp"

// The only place where kernels are started.
namespace longlora {

struct Grid {
    dim3 blocks;
    dim3 threads;
    std::size_t shared_bytes = 0;
};

// Enough blocks of `threads` for `count` elements, one each.
inline Grid grid_for(Index count, unsigned threads = 256) {
    return {dim3(static_cast<unsigned>(ceil_div(count, threads))), dim3(threads)};
}

// Does nothing for a grid without blocks. Arguments are converted to the kernel's parameters.
template <class... Parameters, class... Arguments>
void launch(const CudaStream& stream, void (*kernel)(Parameters...), const Grid& grid,
            const Arguments&... arguments) {
    if (grid.blocks.x == 0 || grid.blocks.y == 0 || grid.blocks.z == 0) {
        return;
    }
    // More than 48 KiB, with what the kernel declares for itself, must be asked for.
    constexpr std::size_t granted = 32U << 10U;
    if (grid.shared_bytes > granted) {
        cuda_check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                        cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        static_cast<int>(grid.shared_bytes)),
                   "grant shared memory");
    }
    cudaLaunchConfig_t config{};
    config.gridDim = grid.blocks;
    config.blockDim = grid.threads;
    config.dynamicSmemBytes = grid.shared_bytes;
    config.stream = stream.handle();
    cuda_check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...),
               "start a kernel");
}

}  // namespace longlora
