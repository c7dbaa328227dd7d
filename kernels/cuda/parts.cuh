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

// How a block that has a row for itself shares it, where the threads are as many as the row needs up to
// 1024: a warp takes stretches of neighbours, so that what its lanes hold is at fixed distances.
template <int width>
struct WarpStretch {
    static constexpr int lanes = 32;
    static constexpr int parts = 4;  // of a thread in a stretch
    static constexpr int distance = lanes * width;
    static constexpr int columns = parts * distance;
    static constexpr Index most_columns =
        1024 / lanes * columns;  // of a row with one stretch a warp

    static unsigned threads(Index columns_of_row) {
        const Index stretches = ceil_div(std::min(columns_of_row, most_columns), columns);
        return static_cast<unsigned>(std::max<Index>(stretches, 1) * lanes);
    }
    // Whether each thread has all parts of one stretch.
    static bool is_whole(Index columns_of_row) {
        return columns_of_row % columns == 0 && columns_of_row <= most_columns;
    }

    // Column of this thread's first part in its first stretch.
    static __device__ int first() {
        const int thread = static_cast<int>(threadIdx.x);
        return thread / lanes * columns + thread % lanes * width;
    }
};

// body(part) for this thread's share of a row of any length, in the order of WarpStretch.
template <int width, bool is_packed, class Body>
__device__ void for_stretches(Index columns, const Body& body) {
    using Stretch = WarpStretch<width>;
    const Index step = Index{blockDim.x} / Stretch::lanes * Stretch::columns;
#pragma unroll 1
    for (Index begin = Stretch::first(); begin < columns; begin += step) {
#pragma unroll 1
        for (int i = 0; i < Stretch::parts; ++i) {
            const Index first = begin + i * Stretch::distance;
            if (first < columns) {
                body(Part<width, is_packed>{first, columns});
            }
        }
    }
}

// body(i, part) where is_whole: unrolled, so that the i-th elements of arrays are registers.
template <int width, class Body>
__device__ void for_held_parts(Index columns, const Body& body) {
    using Stretch = WarpStretch<width>;
#pragma unroll
    for (int i = 0; i < Stretch::parts; ++i) {
        body(i, Part<width, true>{Stretch::first() + i * Stretch::distance, columns});
    }
}

}  // namespace longlora
