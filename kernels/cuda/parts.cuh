#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"

// How kernels walk rows: a thread takes a part, `width` neighbours of a row. Where addresses, pitch and
// columns allow it (is_packed) each operand of a part moves in accesses of up to 16 bytes, elsewhere
// element by element, with the row's last part cut short. Which thread has which elements is the same
// either way, so that the bits of a sum over a row do not depend on where the row lies.
namespace longlora {

// So many that 16 bytes of T move at once.
template <class T>
constexpr int part_width = 16 / sizeof(T);

template <class T, int width>
struct alignas(std::min<std::size_t>(16, sizeof(T) * width)) Pack {
    T at[width];

    __device__ T& operator[](int i) { return at[i]; }
    __device__ const T& operator[](int i) const { return at[i]; }
};

template <class T, int width>
__device__ Pack<float, width> floats(const Pack<T, width>& pack) {
    Pack<float, width> x;
#pragma unroll
    for (int i = 0; i < width; ++i) {
        x[i] = longlora::load(&pack[i]);
    }
    return x;
}

template <int width, bool is_packed>
struct Part {
    Index first;    // column
    Index columns;  // of the row

    // Elements that are not there are 0.
    template <class T>
    __device__ Pack<float, width> load(const T* row) const {
        return floats(fetch(row));
    }

    // The same as it is stored: to convert it later leaves other loads room before it is waited for.
    template <class T>
    __device__ Pack<T, width> fetch(const T* row) const {
        if constexpr (is_packed) {
            return *reinterpret_cast<const Pack<T, width>*>(row + first);
        } else {
            Pack<T, width> x;
#pragma unroll
            for (int i = 0; i < width; ++i) {
                x[i] = first + i < columns ? row[first + i] : T{};
            }
            return x;
        }
    }

    template <class T>
    __device__ void store(T* row, const Pack<float, width>& x) const {
        if constexpr (is_packed) {
            Pack<T, width> pack;
#pragma unroll
            for (int i = 0; i < width; ++i) {
                longlora::store(&pack[i], x[i]);
            }
            *reinterpret_cast<Pack<T, width>*>(row + first) = pack;
        } else {
#pragma unroll
            for (int i = 0; i < width; ++i) {
                if (first + i < columns) {
                    longlora::store(row + first + i, x[i]);
                }
            }
        }
    }

    // Bit by bit.
    template <class T>
    __device__ void copy(const T* from, T* to) const {
        if constexpr (is_packed) {
            *reinterpret_cast<Pack<T, width>*>(to + first) =
                *reinterpret_cast<const Pack<T, width>*>(from + first);
        } else {
#pragma unroll
            for (int i = 0; i < width; ++i) {
                if (first + i < columns) {
                    to[first + i] = from[first + i];
                }
            }
        }
    }
};

// Whether parts of `width` may be packed in all of the views.
template <int width, class Device, class T>
bool is_packable(const View<Device, T, 2>& view) {
    constexpr std::size_t alignment = alignof(Pack<std::remove_const_t<T>, width>);
    return reinterpret_cast<std::uintptr_t>(view.data()) % alignment == 0 &&
           view.pitch() % width == 0 && view.columns() % width == 0;
}
template <int width, class Device, class T>
bool is_packable(const View<Device, T, 1>& view) {
    return is_packable<width>(View<Device, T, 2>(view.data(), 1, view.size()));
}
template <int width, class First, class... Others>
bool are_packable(const First& first, const Others&... others) {
    return is_packable<width>(first) && (is_packable<width>(others) && ...);
}

// A thread for each part of a (rows, columns) matrix; rows beyond what a grid may hold are walked. Of
// short rows a block takes several.
inline Grid grid_for_parts(Index rows, Index columns, int width) {
    constexpr unsigned threads = 256;
    constexpr Index most_blocks = 65535;
    const Index parts = ceil_div(columns, width);
    unsigned across = 1;
    while (across < threads && across < parts) {
        across *= 2;
    }
    const unsigned down = threads / across;
    const Index blocks = std::min(most_blocks, ceil_div(rows, down));
    return {dim3(static_cast<unsigned>(ceil_div(parts, across)), static_cast<unsigned>(blocks)),
            dim3(across, down)};
}

// body(row, part) for what grid_for_parts has given to this thread.
template <int width, bool is_packed, class Body>
__device__ void for_parts(Index rows, Index columns, const Body& body) {
    const Index first = (Index{blockIdx.x} * blockDim.x + threadIdx.x) * width;
    if (first >= columns) {
        return;
    }
    const Index step = Index{gridDim.y} * blockDim.y;
#pragma unroll 1  // one row as a rule: to count the rows first would cost a division
    for (Index t = Index{blockIdx.y} * blockDim.y + threadIdx.y; t < rows; t += step) {
        body(t, Part<width, is_packed>{first, columns});
    }
}

// body(part) for this thread's share of one row, which a block of `threads` has for itself.
template <int threads, int width, bool is_packed, class Body>
__device__ void for_parts_of_row(Index columns, const Body& body) {
    for (Index first = Index{threadIdx.x} * width; first < columns; first += threads * width) {
        body(Part<width, is_packed>{first, columns});
    }
}

// How a block of `threads` has one row: its first parts stay in registers between two uses, what a row
// has beyond `columns` is read again.
template <int threads, int width, bool is_packed>
struct HeldRow {
    static constexpr int parts = 4;  // of a thread
    static constexpr Index columns = Index{threads} * width * parts;

    // body(i, part) for what this thread holds, 0 <= i < parts.
    template <class Body>
    static __device__ void for_held(Index columns_of_row, const Body& body) {
        const Index mine = Index{threadIdx.x} * width;
#pragma unroll
        for (int i = 0; i < parts; ++i) {
            const Index first = mine + i * threads * width;
            if (first < columns_of_row) {
                body(i, Part<width, is_packed>{first, columns_of_row});
            }
        }
    }

    // body(part) for this thread's share of the rest.
    template <class Body>
    static __device__ void for_rest(Index columns_of_row, const Body& body) {
#pragma unroll 1
        for (Index first = columns + Index{threadIdx.x} * width; first < columns_of_row;
             first += threads * width) {
            body(Part<width, is_packed>{first, columns_of_row});
        }
    }
};

// body(std::integral_constant<int, threads>) with threads that hold a row of `columns` where 1024 can.
// They are a function of the columns alone, as the bits of a sum over a row must be.
template <int width, class Body>
void with_threads_of_row(Index columns, const Body& body) {
    if (columns <= HeldRow<256, width, true>::columns) {
        body(std::integral_constant<int, 256>());
    } else if (columns <= HeldRow<512, width, true>::columns) {
        body(std::integral_constant<int, 512>());
    } else {
        body(std::integral_constant<int, 1024>());
    }
}

}  // namespace longlora
