#include "core/device_memory.hpp"

#include <sys/mman.h>

#include <atomic>
#include <cstdlib>
#include <cstring>

#include "core/error.hpp"
#include "core/text.hpp"
#include "core/view.hpp"

namespace longlora {
namespace {

constexpr std::size_t alignment = 64;  // one cache line, one AVX-512 register
std::atomic<bool> is_banned = false;

constexpr std::size_t huge_page = 2ULL << 20U;  // first touch costs a fifth with 2 MiB pages

}  // namespace

AllocationBan::AllocationBan() { is_banned = true; }
AllocationBan::~AllocationBan() { is_banned = false; }

void check_allocation(const std::string& purpose) {
    ensure(!is_banned, "memory for " + purpose + " is taken in the midst of a step");
}

void* DeviceMemory<Cpu>::allocate(std::size_t bytes, const std::string& purpose) {
    check_allocation(purpose);
    const bool is_large = bytes >= 2 * huge_page;
    const std::size_t unit = is_large ? huge_page : alignment;
    const std::size_t size = (bytes + unit - 1) / unit * unit;
    void* memory = std::aligned_alloc(unit, size);
    ensure(memory != nullptr, "out of memory: cannot allocate " + format_bytes(bytes) + " for " +
                                  purpose +
                                  "; use more ranks, more sequence.chunks or a leaner "
                                  "train.activations");
    if (is_large) {
        madvise(memory, size, MADV_HUGEPAGE);
    }
    std::memset(memory, 0, bytes);  // touched once, here: no page fault after the first step
    return memory;
}

void DeviceMemory<Cpu>::release(void* memory) noexcept { std::free(memory); }

}  // namespace longlora
