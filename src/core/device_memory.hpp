#pragma once

#include <cstddef>
#include <string>

#include "core/device.hpp"

namespace longlora {

// Raw memory of a device, all zero; what arenas are made of. Errors name `purpose` and the remedy.
template <class Device>
struct DeviceMemory;

template <>
struct DeviceMemory<Cpu> {
    static void* allocate(std::size_t bytes, const std::string& purpose);
    static void release(void* memory) noexcept;
};

void* allocate_cuda_memory(std::size_t bytes, const std::string& purpose);
void release_cuda_memory(void* memory) noexcept;

template <class Storage>
struct DeviceMemory<CudaDevice<Storage>> {
    static void* allocate(std::size_t bytes, const std::string& purpose) {
        return allocate_cuda_memory(bytes, purpose);
    }
    static void release(void* memory) noexcept { release_cuda_memory(memory); }
};

}  // namespace longlora
