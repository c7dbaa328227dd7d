#pragma once

#include <cuda_runtime_api.h>

#include "core/error.hpp"

namespace longlora {

// Every call of the CUDA runtime goes through here: an Error that names what was tried, with CUDA's
// reason. Errors of kernels show at the next call that waits for them.
inline void cuda_check(cudaError_t status, const char* what) {
    if (status != cudaSuccess) {
        throw Error(std::string("the GPU failed to ") + what + ": " + cudaGetErrorString(status) +
                        " (" + cudaGetErrorName(status) + ")",
                    ExitCode::failure);
    }
}

}  // namespace longlora
