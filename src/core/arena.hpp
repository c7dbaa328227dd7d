#pragma once

#include <cstddef>
#include <string>
#include <type_traits>

#include "core/device.hpp"
#include "core/view.hpp"

namespace longlora {

// Memory of one purpose, sized before the first step and never grown: a run that starts does not
// run out of memory later. A measuring arena hands out views without memory and only counts; the
// planner runs the very code that allocates (`Activations(arena, ...)`) on one to learn its size.
template <class Device>
class Arena {
public:
    // `name` is what an error and the memory table call it.
    Arena(std::string name, std::size_t bytes);
    static Arena measuring(std::string name) { return Arena(std::move(name)); }
    ~Arena();
    Arena(Arena&& other) noexcept;
    Arena& operator=(Arena&& other) noexcept;
    Arena(const Arena&) = delete;
    Arena& operator=(const Arena&) = delete;

    template <class T>
    View<Device, T, 1> vector(Index size) {
        return {static_cast<T*>(take(sizeof(T) * static_cast<std::size_t>(size))), size};
    }
    template <class T>
    View<Device, T, 2> matrix(Index rows, Index columns) {
        return {static_cast<T*>(take(sizeof(T) * static_cast<std::size_t>(rows * columns))), rows,
                columns};
    }

    // What is taken next begins at `place`, which used() has named: arrays that are never in use together
    // share memory. used() counts the farthest.
    Arena& from(std::size_t place) {
        next_ = place;
        return *this;
    }

    const std::string& name() const { return name_; }
    std::size_t used() const { return used_; }
    std::size_t capacity() const { return capacity_; }
    bool is_measuring() const { return is_measuring_; }

private:
    // A cache line and an AVX-512 register on the CPU, 16 of the widest accesses on a GPU.
    static constexpr std::size_t alignment = std::is_same_v<Device, Cpu> ? 64 : 256;

    explicit Arena(std::string name) : name_(std::move(name)), is_measuring_(true) {}
    void* take(std::size_t bytes);

    std::string name_;
    std::byte* data_ = nullptr;
    std::size_t capacity_ = 0;
    std::size_t next_ = 0;
    std::size_t used_ = 0;
    bool is_measuring_ = false;
};

// Owner of one array, for memory that lives as long as an object (weights, moments).
template <class Device, class T>
class Buffer {
public:
    explicit Buffer(Index size)
        : arena_("buffer", sizeof(T) * static_cast<std::size_t>(size)),
          view_(arena_.template vector<T>(size)) {}
    Buffer(Buffer&& other) noexcept = default;
    Buffer& operator=(Buffer&& other) noexcept = default;

    View<Device, T, 1> view() { return view_; }
    View<Device, const T, 1> view() const { return view_; }
    Index size() const { return view_.size(); }

private:
    Arena<Device> arena_;
    View<Device, T, 1> view_;
};

}  // namespace longlora
