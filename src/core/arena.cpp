#include "core/arena.hpp"

#include <algorithm>
#include <utility>

#include "core/device_memory.hpp"
#include "core/error.hpp"
#include "core/text.hpp"

namespace longlora {
namespace {

std::size_t rounded(std::size_t bytes, std::size_t unit) {
    return (bytes + unit - 1) / unit * unit;
}

}  // namespace

template <class Device>
Arena<Device>::Arena(std::string name, std::size_t bytes) : name_(std::move(name)) {
    capacity_ = rounded(bytes, alignment);
    if (capacity_ > 0) {
        data_ = static_cast<std::byte*>(DeviceMemory<Device>::allocate(capacity_, name_));
    }
}

template <class Device>
Arena<Device>::~Arena() {
    DeviceMemory<Device>::release(data_);
}

template <class Device>
Arena<Device>::Arena(Arena&& other) noexcept
    : name_(std::move(other.name_)),
      data_(std::exchange(other.data_, nullptr)),
      capacity_(std::exchange(other.capacity_, 0)),
      next_(std::exchange(other.next_, 0)),
      used_(std::exchange(other.used_, 0)),
      is_measuring_(other.is_measuring_) {}

template <class Device>
Arena<Device>& Arena<Device>::operator=(Arena&& other) noexcept {
    std::swap(name_, other.name_);
    std::swap(data_, other.data_);
    std::swap(capacity_, other.capacity_);
    std::swap(next_, other.next_);
    std::swap(used_, other.used_);
    std::swap(is_measuring_, other.is_measuring_);
    return *this;
}

template <class Device>
void* Arena<Device>::take(std::size_t bytes) {
    const std::size_t offset = next_;
    next_ += rounded(bytes, alignment);
    used_ = std::max(used_, next_);
    if (is_measuring_) {
        return nullptr;
    }
    ensure(next_ <= capacity_, "arena '" + name_ + "' was planned too small (" +
                                   format_bytes(capacity_) + ", needs " + format_bytes(next_) +
                                   ")");
    return data_ + offset;
}

LONGLORA_INSTANTIATE(Arena);

}  // namespace longlora
