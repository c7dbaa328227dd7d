#pragma once

#include <cstddef>
#include <string>

namespace longlora {

// GPUs that this process sees; 0 without a driver, and in builds without CUDA.
int cuda_device_count();

// Why there are none, in a few words for a message.
std::string why_no_cuda_device();

// From now on this thread's streams and memory are those of GPU `index`. Its name.
std::string use_cuda_device(int index);

// Where this thread's GPU sits in its host: by this NCCL tells GPUs apart, too.
std::string cuda_bus();

// Bytes that may still be allocated on it.
std::size_t free_cuda_memory();

}  // namespace longlora
