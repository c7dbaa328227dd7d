#include <algorithm>
#include <array>
#include <map>
#include <mutex>

#include "core/cuda_check.hpp"
#include "core/cuda_device.hpp"
#include "core/device_memory.hpp"
#include "core/text.hpp"

namespace longlora {
namespace {

// Sizes of what is allocated.
class Ledger {
public:
    void add(void* memory, std::size_t bytes) {
        const std::scoped_lock lock(mutex_);
        sizes_[memory] = bytes;
        used_ += bytes;
        peak_ = std::max(peak_, used_);
    }
    void remove(void* memory) {
        const std::scoped_lock lock(mutex_);
        const auto entry = sizes_.find(memory);
        if (entry != sizes_.end()) {
            used_ -= entry->second;
            sizes_.erase(entry);
        }
    }
    std::size_t peak() {
        const std::scoped_lock lock(mutex_);
        return peak_;
    }

private:
    std::mutex mutex_;
    std::map<void*, std::size_t> sizes_;
    std::size_t used_ = 0;
    std::size_t peak_ = 0;
};

Ledger& ledger() {
    static Ledger one;
    return one;
}

}  // namespace

int cuda_device_count() {
    int count = 0;
    return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

std::string why_no_cuda_device() {
    int count = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    int driver = 0;
    int runtime = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    if (driver == 0) {
        return "no NVIDIA driver";
    }
    if (status == cudaErrorInsufficientDriver) {  // versions are 1000 major + 10 minor
        return "the NVIDIA driver knows CUDA " + std::to_string(driver / 1000) + "." +
               std::to_string(driver % 1000 / 10) + ", this program needs CUDA " +
               std::to_string(runtime / 1000);
    }
    if (status == cudaErrorNoDevice) {
        return "this process is given none, or CUDA_VISIBLE_DEVICES hides them";
    }
    return count > 0 ? "other ranks see none" : cudaGetErrorString(status);
}

std::string use_cuda_device(int index) {
    cuda_check(cudaSetDevice(index), "choose a device");
    cudaDeviceProp properties{};
    cuda_check(cudaGetDeviceProperties(&properties, index), "describe a device");
    return properties.name;
}

std::string cuda_bus() {
    int device = 0;
    cuda_check(cudaGetDevice(&device), "name the device");
    std::array<char, 32> bus{};
    cuda_check(cudaDeviceGetPCIBusId(bus.data(), static_cast<int>(bus.size()), device),
               "name the device's bus");
    return bus.data();
}

std::size_t free_cuda_memory() {
    std::size_t free = 0;
    std::size_t total = 0;
    cuda_check(cudaMemGetInfo(&free, &total), "ask for free memory");
    return free;
}

void* allocate_cuda_memory(std::size_t bytes, const std::string& purpose) {
    check_allocation(purpose);
    void* memory = nullptr;
    const cudaError_t status = cudaMalloc(&memory, bytes);
    if (status == cudaErrorMemoryAllocation) {
        std::size_t free = 0;
        std::size_t total = 0;
        cudaMemGetInfo(&free, &total);
        throw Error("out of GPU memory: cannot allocate " + format_bytes(bytes) + " for " +
                        purpose + ", " + format_bytes(free) + " of " + format_bytes(total) +
                        " are free; use more GPUs, more sequence.chunks or a leaner "
                        "train.activations",
                    ExitCode::failure);
    }
    cuda_check(status, "allocate memory");
    ledger().add(memory, bytes);
    cuda_check(cudaMemset(memory, 0, bytes), "clear memory");
    cuda_check(cudaDeviceSynchronize(), "clear memory");
    return memory;
}

void release_cuda_memory(void* memory) noexcept {
    ledger().remove(memory);
    cudaFree(memory);
}

std::size_t peak_cuda_memory() { return ledger().peak(); }

}  // namespace longlora
