#include "copy_queue.hpp"

#include <cstdint>
#include <cstring>
#include <string>

#include "emulator.hpp"

namespace longlora::emulator {

namespace {

bool is_aligned(const void* p) {
    return reinterpret_cast<std::uintptr_t>(p) % CopyQueue::copy_bytes == 0;
}

}  // namespace

void CopyQueue::add(void* shared, const void* global, int bytes) {
    if (bytes < 0 || bytes > static_cast<int>(copy_bytes)) {
        fail("copy_async of " + std::to_string(bytes) + " bytes, not 0 to 16");
    }
    if (!is_aligned(shared) || !is_aligned(global)) {
        fail(std::string("copy_async ") + (is_aligned(shared) ? "from" : "to") +
             " an address that is not a multiple of 16");
    }
    if (!is_shared(shared, copy_bytes)) {
        fail("copy_async to what is not shared memory");
    }
    std::memset(shared, 0xFF, copy_bytes);
    copies_.push_back({shared, global, static_cast<std::size_t>(bytes)});
    ++open_;
}

void CopyQueue::close() {
    groups_.push_back(open_);
    open_ = 0;
}

void CopyQueue::finish(std::size_t pending) {
    if (groups_.size() <= pending) {
        return;
    }
    const auto ended = static_cast<std::ptrdiff_t>(groups_.size() - pending);
    std::size_t count = 0;
    for (std::ptrdiff_t group = 0; group < ended; ++group) {
        count += groups_[static_cast<std::size_t>(group)];
    }
    for (std::size_t i = 0; i < count; ++i) {
        const Copy& copy = copies_[i];
        unsigned char data[copy_bytes] = {};
        if (copy.bytes > 0) {
            std::memcpy(data, copy.from, copy.bytes);
        }
        std::memcpy(copy.to, data, copy_bytes);
    }
    groups_.erase(groups_.begin(), groups_.begin() + ended);
    copies_.erase(copies_.begin(), copies_.begin() + static_cast<std::ptrdiff_t>(count));
}

void CopyQueue::clear() {
    copies_.clear();
    groups_.clear();
    open_ = 0;
}

}  // namespace longlora::emulator
