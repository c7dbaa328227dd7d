#include "memory.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <map>
#include <mutex>
#include <utility>

#include "cuda_runtime_api.h"
#include "late_copies.hpp"
#include "runtime.hpp"

namespace longlora::emulator {

namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr std::size_t guard_bytes = 0;  // the sanitizer guards what lies behind
#else
constexpr std::size_t guard_bytes = 256;
#endif
constexpr unsigned char guard = 0xA5;
constexpr std::size_t alignment = 256;  // as cudaMalloc's

enum class Kind { host, registered, device };

class Allocations {
public:
    cudaError_t allocate(void** memory, std::size_t bytes, Kind kind) {
        const std::lock_guard lock(mutex_);
        *memory = nullptr;
        if (bytes == 0) {
            return cudaSuccess;
        }
        if (kind == Kind::device && bytes > device_bytes - used_) {
            return cudaErrorMemoryAllocation;
        }
        if (posix_memalign(memory, alignment, bytes + guard_bytes) != 0) {
            return cudaErrorMemoryAllocation;
        }
        std::memset(*memory, 0xFF, bytes);
        std::memset(static_cast<char*>(*memory) + bytes, guard, guard_bytes);
        blocks_[static_cast<const char*>(*memory)] = {bytes, kind};
        used_ += kind == Kind::device ? bytes : 0;
        return cudaSuccess;
    }

    cudaError_t release(void* memory, Kind kind) {
        const std::lock_guard lock(mutex_);
        if (memory == nullptr) {
            return cudaSuccess;
        }
        const auto block = blocks_.find(static_cast<const char*>(memory));
        if (block == blocks_.end() || block->second.kind != kind) {
            return cudaErrorInvalidValue;
        }
        check_guard(block->first, block->second.bytes);
        used_ -= kind == Kind::device ? block->second.bytes : 0;
        blocks_.erase(block);
        std::free(memory);
        return cudaSuccess;
    }

    // Memory of others, pinned from now on.
    cudaError_t adopt(const void* memory, std::size_t bytes) {
        const std::lock_guard lock(mutex_);
        const auto* const first = static_cast<const char*>(memory);
        return blocks_.try_emplace(first, Block{bytes, Kind::registered}).second
                   ? cudaSuccess
                   : cudaErrorInvalidValue;
    }
    cudaError_t give_up(const void* memory) {
        const std::lock_guard lock(mutex_);
        const auto block = blocks_.find(static_cast<const char*>(memory));
        if (block == blocks_.end() || block->second.kind != Kind::registered) {
            return cudaErrorInvalidValue;
        }
        blocks_.erase(block);
        return cudaSuccess;
    }

    // Whether it lies in an allocation, of the GPU's memory or of pinned memory.
    bool has(const void* at, std::size_t bytes) {
        const std::lock_guard lock(mutex_);
        const auto* const first = static_cast<const char*>(at);
        const auto block = blocks_.upper_bound(first);
        return block != blocks_.begin() &&
               std::prev(block)->first + std::prev(block)->second.bytes - first >=
                   static_cast<std::ptrdiff_t>(bytes);
    }

    // How many bytes of the GPU's memory follow `from` in its allocation; not in one: -1.
    std::ptrdiff_t bytes_behind(const void* from) {
        const std::lock_guard lock(mutex_);
        const auto* const at = static_cast<const char*>(from);
        auto block = blocks_.upper_bound(at);
        if (block == blocks_.begin()) {
            return -1;
        }
        block = std::prev(block);
        const auto left = block->first + block->second.bytes - at;
        return block->second.kind == Kind::device && left > 0 ? left : -1;
    }

    std::size_t used() {
        const std::lock_guard lock(mutex_);
        return used_;
    }

private:
    struct Block {
        std::size_t bytes;
        Kind kind;
    };

    // Memory is given back in destructors, which cannot throw.
    static void check_guard(const char* memory, std::size_t bytes) {
        if (!std::all_of(memory + bytes, memory + bytes + guard_bytes,
                         [](char c) { return static_cast<unsigned char>(c) == guard; })) {
            std::fprintf(stderr, "emulator: written behind an allocation of %zu bytes\n", bytes);
            std::abort();
        }
    }

    std::mutex mutex_;
    std::map<const char*, Block> blocks_;
    std::size_t used_ = 0;
};

// Never destroyed: static objects may give memory back at the end of the process.
Allocations& allocations() {
    static auto* const all = new Allocations;
    return *all;
}

// A copy's end must be whole in the GPU's memory, or outside of it.
cudaError_t check_end(const void* at, std::size_t bytes, bool is_device) {
    const std::ptrdiff_t behind = allocations().bytes_behind(at);
    const bool is_right = is_device ? behind >= static_cast<std::ptrdiff_t>(bytes) : behind < 0;
    return is_right ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t check_copy(const void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
    if (bytes == 0) {
        return cudaSuccess;
    }
    const auto is_device = [](const void* at) { return allocations().bytes_behind(at) >= 0; };
    bool to_device = false;
    bool from_device = false;
    switch (kind) {
        case cudaMemcpyHostToHost:
            break;
        case cudaMemcpyHostToDevice:
            to_device = true;
            break;
        case cudaMemcpyDeviceToHost:
            from_device = true;
            break;
        case cudaMemcpyDeviceToDevice:
            to_device = true;
            from_device = true;
            break;
        case cudaMemcpyDefault:
            to_device = is_device(to);
            from_device = is_device(from);
            break;
        default:
            return cudaErrorInvalidMemcpyDirection;
    }
    const cudaError_t status = check_end(to, bytes, to_device);
    return status != cudaSuccess ? status : check_end(from, bytes, from_device);
}

}  // namespace

bool is_device_memory(const void* from, std::size_t bytes) {
    return bytes == 0 || allocations().bytes_behind(from) >= static_cast<std::ptrdiff_t>(bytes);
}

}  // namespace longlora::emulator

using longlora::emulator::allocations;
using longlora::emulator::check_copy;
using longlora::emulator::device_bytes;
using longlora::emulator::Kind;
using longlora::emulator::report;

cudaError_t cudaMalloc(void** memory, std::size_t bytes) {
    return report(allocations().allocate(memory, bytes, Kind::device));
}
cudaError_t cudaFree(void* memory) {
    if (memory != nullptr) {
        longlora::emulator::finish_copies();
    }
    return report(allocations().release(memory, Kind::device));
}
cudaError_t cudaMallocHost(void** memory, std::size_t bytes) {
    return report(allocations().allocate(memory, bytes, Kind::host));
}
cudaError_t cudaHostAlloc(void** memory, std::size_t bytes, unsigned /*flags*/) {
    return cudaMallocHost(memory, bytes);
}
cudaError_t cudaFreeHost(void* memory) {
    if (memory != nullptr) {
        longlora::emulator::finish_copies();
    }
    return report(allocations().release(memory, Kind::host));
}
cudaError_t cudaHostRegister(void* memory, std::size_t bytes, unsigned /*flags*/) {
    return report(memory == nullptr || bytes == 0 ? cudaErrorInvalidValue
                                                  : allocations().adopt(memory, bytes));
}
cudaError_t cudaHostUnregister(void* memory) {
    longlora::emulator::finish_copies();
    return report(allocations().give_up(memory));
}

cudaError_t cudaMemGetInfo(std::size_t* free_bytes, std::size_t* total_bytes) {
    *free_bytes = device_bytes - allocations().used();
    *total_bytes = device_bytes;
    return cudaSuccess;
}

cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
    const cudaError_t status = check_copy(to, from, bytes, kind);
    if (status == cudaSuccess && bytes > 0) {
        std::memmove(to, from, bytes);
    }
    return report(status);
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
    const bool is_late = stream != nullptr && bytes > 0 && allocations().has(to, bytes) &&
                         allocations().has(from, bytes);
    if (!is_late) {
        longlora::emulator::finish_copies(stream);
        return cudaMemcpy(to, from, bytes, kind);
    }
    const cudaError_t status = check_copy(to, from, bytes, kind);
    if (status == cudaSuccess) {
        longlora::emulator::add_copy(stream, to, from, bytes);
    }
    return report(status);
}

cudaError_t cudaMemcpy2D(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
                         std::size_t width, std::size_t height, cudaMemcpyKind kind) {
    if (width > to_pitch || width > from_pitch) {
        return report(cudaErrorInvalidPitchValue);
    }
    for (std::size_t row = 0; row < height; ++row) {
        const cudaError_t status =
            cudaMemcpy(static_cast<char*>(to) + row * to_pitch,
                       static_cast<const char*>(from) + row * from_pitch, width, kind);
        if (status != cudaSuccess) {
            return status;
        }
    }
    return cudaSuccess;
}
cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from,
                              std::size_t from_pitch, std::size_t width, std::size_t height,
                              cudaMemcpyKind kind, cudaStream_t stream) {
    longlora::emulator::finish_copies(stream);
    return cudaMemcpy2D(to, to_pitch, from, from_pitch, width, height, kind);
}

cudaError_t cudaMemset(void* memory, int value, std::size_t bytes) {
    if (!longlora::emulator::is_device_memory(memory, bytes)) {
        return report(cudaErrorInvalidValue);
    }
    if (bytes > 0) {
        std::memset(memory, value, bytes);
    }
    return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* memory, int value, std::size_t bytes, cudaStream_t stream) {
    longlora::emulator::finish_copies(stream);
    return cudaMemset(memory, value, bytes);
}
