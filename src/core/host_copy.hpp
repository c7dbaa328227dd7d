#pragma once

#include <type_traits>
#include <vector>

#include "core/transfer.hpp"

namespace longlora {

// An array of a device as the host sees it: the very memory on the CPU, elsewhere a copy.
template <class Device, class T>
class HostCopy {
public:
    // To be filled and written back.
    explicit HostCopy(View<Device, T, 1> array) : array_(array) {
        if constexpr (is_copied) {
            copy_.resize(static_cast<std::size_t>(array.size()));
        }
    }
    // What the array holds when all earlier work of the stream has ended.
    HostCopy(const Stream<Device>& stream, View<Device, T, 1> array) : HostCopy(array) {
        if constexpr (is_copied) {
            download<Device, T>(stream, array, copy_);
        }
    }

    std::span<T> values() {
        if constexpr (is_copied) {
            return copy_;
        } else {
            return {array_.data(), static_cast<std::size_t>(array_.size())};
        }
    }
    // Gives the array the values.
    void write_back(const Stream<Device>& stream) {
        if constexpr (is_copied) {
            upload<Device, T>(stream, copy_, array_);
        }
    }

private:
    static constexpr bool is_copied = !std::is_same_v<Device, Cpu>;

    View<Device, T, 1> array_;
    std::vector<T> copy_;
};

}  // namespace longlora
