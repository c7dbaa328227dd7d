#include "core/arena.hpp"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <utility>

#include "core/error.hpp"
#include "core/text.hpp"

namespace longlora {
namespace {

constexpr std::size_t alignment = 64;           // one cache line, one AVX-512 register
constexpr std::size_t huge_page = 2ULL << 20U;  // first touch costs a fifth with 2 MiB pages

std::size_t rounded(std::size_t bytes, std::size_t unit) {
    return (bytes + unit - 1) / unit * unit;
}

}  // namespace

template <>
Arena<Cpu>::Arena(std::string name, std::size_t bytes) : name_(std::move(name)) {
    capacity_ = rounded(bytes, alignment);
    if (capacity_ == 0) {
        return;
    }
    const bool is_large = capacity_ >= 2 * huge_page;
    const std::size_t unit = is_large ? huge_page : alignment;
    data_ = static_cast<std::byte*>(std::aligned_alloc(unit, rounded(capacity_, unit)));
    ensure(data_ != nullptr, "out of memory: cannot allocate " + format_bytes(capacity_) + " for " +
                                 name_ +
                                 "; use more ranks, more sequence.chunks or a leaner "
                                 "train.activations");
    if (is_large) {
        madvise(data_, rounded(capacity_, unit), MADV_HUGEPAGE);
    }
    std::memset(data_, 0, capacity_);  // touched once, here: no page fault after the first step
}

template <>
Arena<Cpu>::~Arena() {
    std::free(data_);
}

template <>
Arena<Cpu>::Arena(Arena&& other) noexcept
    : name_(std::move(other.name_)),
      data_(std::exchange(other.data_, nullptr)),
      capacity_(std::exchange(other.capacity_, 0)),
      used_(std::exchange(other.used_, 0)),
      is_measuring_(other.is_measuring_) {}

template <>
Arena<Cpu>& Arena<Cpu>::operator=(Arena&& other) noexcept {
    std::swap(name_, other.name_);
    std::swap(data_, other.data_);
    std::swap(capacity_, other.capacity_);
    std::swap(used_, other.used_);
    std::swap(is_measuring_, other.is_measuring_);
    return *this;
}

template <>
void* Arena<Cpu>::take(std::size_t bytes) {
    const std::size_t offset = used_;
    used_ += rounded(bytes, alignment);
    if (is_measuring_) {
        return nullptr;
    }
    ensure(used_ <= capacity_, "arena '" + name_ + "' was planned too small (" +
                                   format_bytes(capacity_) + ", needs " + format_bytes(used_) +
                                   ")");
    return data_ + offset;
}

}  // namespace longlora
