#include "core/pinned_memory.hpp"

#include <utility>

#include "core/cuda_check.hpp"
#include "core/device_memory.hpp"
#include "core/text.hpp"

namespace longlora {

PinnedMemory::PinnedMemory(std::size_t bytes, const std::string& purpose) {
    if (bytes == 0) {
        return;
    }
    check_allocation(purpose);
    const cudaError_t status = cudaMallocHost(&data_, bytes);
    if (status == cudaErrorMemoryAllocation) {
        throw Error(
            "out of memory: the host cannot pin " + format_bytes(bytes) + " for " + purpose +
                "; use a smaller train.offload, fewer sequence.chunks, more nodes, or raise "
                "`ulimit -l`",
            ExitCode::failure);
    }
    cuda_check(status, "pin memory");
}

PinnedMemory::~PinnedMemory() { cudaFreeHost(data_); }

PinnedMemory::PinnedMemory(PinnedMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)) {}

PinnedMemory& PinnedMemory::operator=(PinnedMemory&& other) noexcept {
    std::swap(data_, other.data_);
    return *this;
}

}  // namespace longlora
