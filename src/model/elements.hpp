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

// Memory for a matrix with `behind` more columns that are not part of the view.
template <class Device>
View<Device, Element<Device>, 2> element_matrix(Arena<Device>& arena, Index rows, Index columns,
                                                Index behind) {
    return arena.template matrix<Element<Device>>(rows, columns + behind).columns({0, columns});
}

// Memory for a copy of x in the storage type; x itself where it is of that type.
template <class Device>
View<Device, Element<Device>, 2> element_matrix(Arena<Device>& arena, View<Device, float, 2> x,
                                                Index behind = 0) {
    if constexpr (stores_floats<Device>) {
        return x;
    } else {
        return element_matrix<Device>(arena, x.rows(), x.columns(), behind);
    }
}

// x in the storage type, in `memory` unless it is of that type already; there with `behind` more
// columns that are not part of the view.
template <class Device>
View<Device, Element<Device>, 2> as_elements(const Stream<Device>& stream, View<Device, float, 2> x,
                                             View<Device, Element<Device>, 1> memory,
                                             Index behind = 0) {
    if constexpr (stores_floats<Device>) {
        return x;
    } else {
        const View<Device, Element<Device>, 2> copy(memory.data(), x.rows(), x.columns(),
                                                    x.columns() + behind);
        convert(stream, {.x = x, .out = copy});
        return copy;
    }
}

}  // namespace longlora
