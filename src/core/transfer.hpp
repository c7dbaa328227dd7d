#pragma once

#include <cstring>
#include <span>

#include "core/stream.hpp"
#include "core/view.hpp"

// Arrays between the host and a device, in the order of the stream. On the CPU these are copies.
namespace longlora {

// Empty arrays may be nowhere, which memcpy and memset do not allow.
inline void copy_to_device(const Stream<Cpu>&, void* to, const void* from, std::size_t bytes) {
    if (bytes > 0) {
        std::memcpy(to, from, bytes);
    }
}
inline void copy_to_host(const Stream<Cpu>& stream, void* to, const void* from, std::size_t bytes) {
    copy_to_device(stream, to, from, bytes);
}
inline void clear_bytes(const Stream<Cpu>&, void* to, std::size_t bytes) {
    if (bytes > 0) {
        std::memset(to, 0, bytes);
    }
}

// `from` may be changed when this returns.
void copy_to_device(const CudaStream& stream, void* to, const void* from, std::size_t bytes);
// Waits until `to` is complete.
void copy_to_host(const CudaStream& stream, void* to, const void* from, std::size_t bytes);
void clear_bytes(const CudaStream& stream, void* to, std::size_t bytes);
// Between the device and pinned memory, in either direction; the host does not wait.
void copy_async(const CudaStream& stream, void* to, const void* from, std::size_t bytes);

template <class Device, class T>
void upload(const Stream<Device>& stream, std::span<const T> from, View<Device, T, 1> to) {
    copy_to_device(stream, to.data(), from.data(), from.size_bytes());
}

template <class Device, class T>
void download(const Stream<Device>& stream, View<Device, const T, 1> from, std::span<T> to) {
    copy_to_host(stream, to.data(), from.data(), to.size_bytes());
}

// All elements 0.
template <class Device, class T>
void clear(const Stream<Device>& stream, View<Device, T, 1> values) {
    clear_bytes(stream, values.data(), sizeof(T) * static_cast<std::size_t>(values.size()));
}

}  // namespace longlora
