#pragma once

#include <type_traits>

#include "core/arena.hpp"
#include "kernels/elementwise.hpp"

// Matrix products read operands of the storage type. Where that is float these are the very arrays,
// elsewhere copies of them.
namespace longlora {

template <class Device>
constexpr bool stores_floats = std::is_same_v<Element<Device>, float>;

// Elements that a copy of `size` floats takes.
template <class Device>
constexpr Index copy_size(Index size) {
    return stores_floats<Device> ? 0 : size;
}

// Memory for a copy of x in the storage type; x itself where it is of that type.
template <class Device>
View<Device, Element<Device>, 2> element_matrix(Arena<Device>& arena, View<Device, float, 2> x) {
    if constexpr (stores_floats<Device>) {
        return x;
    } else {
        return arena.template matrix<Element<Device>>(x.rows(), x.columns());
    }
}

// x in the storage type, in `memory` unless it is of that type already.
template <class Device>
View<Device, const Element<Device>, 2> as_elements(const Stream<Device>& stream,
                                                   View<Device, const float, 2> x,
                                                   View<Device, Element<Device>, 1> memory) {
    if constexpr (stores_floats<Device>) {
        return x;
    } else {
        const View<Device, Element<Device>, 2> copy(memory.data(), x.rows(), x.columns());
        convert(stream, {.x = x, .out = copy});
        return copy;
    }
}

}  // namespace longlora
