#include "core/pinned_memory.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "core/cuda_check.hpp"
#include "core/device_memory.hpp"
#include "core/text.hpp"

namespace longlora {
namespace {

constexpr std::size_t huge_page = std::size_t{2} << 20U;
constexpr std::size_t most_threads = 16;
// From here on cudaMallocHost is slow: on a host with 16 cores 0.53 s a GiB, where huge pages that many
// threads touch, and that are pinned then, take 0.05.
constexpr std::size_t large = std::size_t{64} << 20U;

std::size_t mapped_bytes(std::size_t bytes) {
    return (bytes + huge_page - 1) / huge_page * huge_page;
}

// So that each page is there, near the cores of this process.
void touch_pages(void* memory, std::size_t bytes) {
    const std::size_t pages = bytes / huge_page;
    const std::size_t count =
        std::clamp<std::size_t>(std::thread::hardware_concurrency(), 1, most_threads);
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    auto* const first = static_cast<volatile unsigned char*>(memory);
    const auto touch = [=](std::size_t i) {
        const std::size_t end = pages * (i + 1) / count * huge_page;
        for (std::size_t at = pages * i / count * huge_page; at < end; at += page) {
            first[at] = 0;
        }
    };
    std::vector<std::jthread> threads;
    try {
        while (threads.size() < count) {
            threads.emplace_back(touch, threads.size());
        }
    } catch (const std::system_error&) {  // no more threads: pinning touches what is left
    }
}

// Null where the system cannot.
void* map_pages(std::size_t bytes) {
    void* const memory =
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        return nullptr;
    }
    madvise(memory, bytes, MADV_HUGEPAGE);  // where there are none, pages are small
    madvise(memory, bytes, MADV_DONTFORK);  // a child's copy on write would move pages
    touch_pages(memory, bytes);
    return memory;
}

}  // namespace

PinnedMemory::PinnedMemory(std::size_t bytes, const std::string& purpose) {
    if (bytes == 0) {
        return;
    }
    check_allocation(purpose);
    if (bytes >= large) {
        pin_pages(mapped_bytes(bytes));
    }
    const cudaError_t status = data_ == nullptr ? cudaMallocHost(&data_, bytes) : cudaSuccess;
    if (status == cudaErrorMemoryAllocation) {
        throw Error(
            "out of memory: the host cannot pin " + format_bytes(static_cast<double>(bytes)) +
                " for " + purpose +
                "; use a smaller train.offload, fewer sequence.chunks, more nodes, or raise "
                "`ulimit -l`",
            ExitCode::failure);
    }
    cuda_check(status, "pin memory");
}

// Nothing where it cannot be done: cudaMallocHost may.
void PinnedMemory::pin_pages(std::size_t bytes) {
    void* const memory = map_pages(bytes);
    if (memory == nullptr) {
        return;
    }
    if (cudaHostRegister(memory, bytes, cudaHostRegisterPortable) == cudaSuccess) {
        data_ = memory;
        mapped_ = bytes;
    } else {
        cudaGetLastError();  // is known
        munmap(memory, bytes);
    }
}

PinnedMemory::~PinnedMemory() {
    if (mapped_ > 0) {
        cudaDeviceSynchronize();  // copies may be under way after an error
        cudaHostUnregister(data_);
        munmap(data_, mapped_);
    } else {
        cudaFreeHost(data_);
    }
}

PinnedMemory::PinnedMemory(PinnedMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), mapped_(std::exchange(other.mapped_, 0)) {}

PinnedMemory& PinnedMemory::operator=(PinnedMemory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(mapped_, other.mapped_);
    return *this;
}

}  // namespace longlora
