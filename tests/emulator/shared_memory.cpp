#include "shared_memory.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>

// Where the linker has put the program's variables, __shared__ ones among them.
extern "C" {
extern char __data_start[] __attribute__((weak));
extern char _end[] __attribute__((weak));
}

namespace longlora::emulator {

namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr std::size_t guard_bytes = 0;  // the sanitizer guards what lies behind
#else
constexpr std::size_t guard_bytes = 256;
#endif
constexpr unsigned char guard = 0xA5;

bool lies_in(const void* from, std::size_t bytes, const void* begin, const void* end) {
    const auto address = [](const void* p) { return reinterpret_cast<std::uintptr_t>(p); };
    return address(from) >= address(begin) && address(from) + bytes <= address(end);
}

}  // namespace

void SharedMemory::resize(std::size_t bytes) {
    if (memory_ == nullptr || bytes != bytes_) {
        void* memory = nullptr;
        if (posix_memalign(&memory, 1024, offset + bytes + guard_bytes) != 0) {
            throw std::bad_alloc();
        }
        memory_.reset(static_cast<unsigned char*>(memory));
        bytes_ = bytes;
    }
    std::memset(data() + bytes_, guard, guard_bytes);
}

void SharedMemory::poison() { std::memset(data(), 0xFF, bytes_); }

bool SharedMemory::is_intact() const {
    return std::all_of(data() + bytes_, data() + bytes_ + guard_bytes,
                       [](unsigned char c) { return c == guard; });
}

bool SharedMemory::contains_dynamic(const void* from, std::size_t bytes) const {
    return lies_in(from, bytes, data(), data() + bytes_);
}

bool SharedMemory::contains(const void* from, std::size_t bytes) const {
    return contains_dynamic(from, bytes) || lies_in(from, bytes, __data_start, _end);
}

}  // namespace longlora::emulator
