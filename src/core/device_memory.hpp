#pragma once

#include <cstddef>
#include <string>

#include "core/device.hpp"

namespace longlora {

// Raw memory of a device, all zero; what arenas are made of. Errors name `purpose` and the remedy.
template <class Device>
struct DeviceMemory;

// While one lives, memory of a device, or pinned memory, is refused with an internal Error: what a first
// step has not taken, later ones must not need. One at a time.
class AllocationBan {
public:
    AllocationBan();
    ~AllocationBan();
    AllocationBan(const AllocationBan&) = delete;
    AllocationBan& operator=(const AllocationBan&) = delete;
};

// Throws while there is a ban.
void check_allocation(const std::string& purpose);

template <>
struct DeviceMemory<Cpu> {
    static void* allocate(std::size_t bytes, const std::string& purpose);
    static void release(void* memory) noexcept;
};

void* allocate_cuda_memory(std::size_t bytes, const std::string& purpose);
void release_cuda_memory(void* memory) noexcept;
// The most that was ever taken at once, by this process and this way; 0 without CUDA.
std::size_t peak_cuda_memory();

template <class Storage>
struct DeviceMemory<CudaDevice<Storage>> {
    static void* allocate(std::size_t bytes, const std::string& purpose) {
        return allocate_cuda_memory(bytes, purpose);
    }
    static void release(void* memory) noexcept { release_cuda_memory(memory); }
};

}  // namespace longlora
