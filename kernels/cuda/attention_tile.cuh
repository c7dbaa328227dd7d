#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>
#include <type_traits>
#include <utility>

#include "kernels/cuda/attention_work.hpp"
#include "kernels/cuda/machine.cuh"
#include "kernels/cuda/parts.cuh"
#include "kernels/cuda/reduce.cuh"

// What attention's passes by tensor cores share. A block has 4 warps; a warp owns 16 of the block's 64
// rows, so that nothing but operands passes between warps. A product's result is spread as
// machine::multiply_add says: lane l has rows l / 4 and l / 4 + 8 and, of each 8 columns, 2 (l % 4) and
// the next. Rounded and packed in pairs it is the left operand of the next product as it is.
namespace longlora {

constexpr int attention_warps = 4;
constexpr int attention_threads = attention_warps * warp_threads;
static_assert(attention_tile_rows == 16 * attention_warps);

// 16 rows of a product, `columns` wide: at[n][0 .. 1] belong to the lane's first row, [2 .. 3] to its
// second, 8 further down.
template <int columns>
struct Strip {
    float at[columns / 8][4] = {};
};

// Where the lane's elements are among the block's 64 rows, and in each 8 columns.
struct LanePlace {
    int row;     // and row + 8
    int column;  // and the next

    __device__ LanePlace() {
        const int thread = static_cast<int>(threadIdx.x);
        row = thread / warp_threads * 16 + thread % warp_threads / 4;
        column = thread % 4 * 2;
    }
};

// Rows of bfloat16 in shared memory, in chunks of 16 bytes. Eight neighbouring rows are read at one
// chunk at once: exchanging chunks within a row, or an unused chunk behind it where the row has no
// multiple of 8, puts them into different banks.
template <int depth>
class SharedRows {
public:
    static constexpr int chunks = depth / 8;

    __device__ explicit SharedRows(unsigned char* data) : data_(data) {}

    static constexpr int bytes(int rows) { return rows * pitch * 16; }
    __device__ unsigned char* chunk(int row, int i) const {
        const int place = is_exchanged ? i / 8 * 8 + ((i % 8) ^ (row % 8)) : i;
        return data_ + (row * pitch + place) * 16;
    }

private:
    static constexpr bool is_exchanged = chunks % 8 == 0;
    static constexpr int pitch = is_exchanged ? chunks : chunks + 1;  // else odd: depth is 16 n

    unsigned char* data_;
};

// A block's shared memory: `own` tiles of its 64 rows, and two steps of what passes by, each of two
// operands: one step is worked on while the next arrives.
template <int depth, int own_tiles, int rows>
class SharedTiles {
    static constexpr int own_bytes = SharedRows<depth>::bytes(attention_tile_rows);
    static constexpr int step_bytes = SharedRows<depth>::bytes(rows);

public:
    static constexpr int step_rows = rows;
    static constexpr int bytes = own_tiles * own_bytes + 4 * step_bytes;

    __device__ SharedTiles() : data_(machine::dynamic_shared()) {}

    __device__ SharedRows<depth> own(int i) const {
        return SharedRows<depth>(data_ + i * own_bytes);
    }
    __device__ SharedRows<depth> first(int step) const {
        return SharedRows<depth>(data_ + own_tiles * own_bytes + step % 2 * 2 * step_bytes);
    }
    __device__ SharedRows<depth> second(int step) const {
        return SharedRows<depth>(data_ + own_tiles * own_bytes + (step % 2 * 2 + 1) * step_bytes);
    }
    __device__ unsigned char* end() const { return data_ + bytes; }

private:
    unsigned char* data_;
};

// Starts to copy all rows of `from` into a tile of `size` rows, whose others become 0.
template <int size, int depth>
__device__ void copy_rows(const SharedRows<depth>& to, View<Cuda, const BFloat16, 2> from) {
    constexpr int across = 8;  // threads in a row, of 128 bytes
    constexpr int down = attention_threads / across;
    const int thread = static_cast<int>(threadIdx.x);
    const int rows = static_cast<int>(from.rows());
    const BFloat16* row = from.row(thread / across) + thread % across * 8;
#pragma unroll
    for (int first = 0; first < size; first += down) {
        const int r = first + thread / across;
        const int bytes = r < rows ? 16 : 0;
#pragma unroll
        for (int chunk = 0; chunk < SharedRows<depth>::chunks; chunk += across) {
            if (chunk + across <= SharedRows<depth>::chunks ||
                chunk + thread % across < SharedRows<depth>::chunks) {
                machine::copy_async(to.chunk(r, chunk + thread % across), row + chunk * 8, bytes);
            }
        }
        row += down * from.pitch();
    }
}

// The rows of a step, of two operands.
template <int depth, int own_tiles, int rows>
__device__ void start_step(const SharedTiles<depth, own_tiles, rows>& shared, int step,
                           View<Cuda, const BFloat16, 2> first,
                           View<Cuda, const BFloat16, 2> second) {
    copy_rows<rows>(shared.first(step), first);
    copy_rows<rows>(shared.second(step), second);
    machine::commit_copies();
}

// c = a b': the warp's 16 rows of a, all `columns` rows of b.
template <int columns, int depth>
__device__ Strip<columns> multiply_rows(const SharedRows<depth>& a, const SharedRows<depth>& b) {
    const int lane = static_cast<int>(threadIdx.x) % warp_threads;
    const int row = static_cast<int>(threadIdx.x) / warp_threads * 16 + lane % 16;
    Strip<columns> c;
#pragma unroll
    for (int k = 0; k < depth / 16; ++k) {
        std::uint32_t left[4];
        machine::load_matrices(left, a.chunk(row, 2 * k + lane / 16));
#pragma unroll
        for (int n = 0; n < columns / 16; ++n) {
            std::uint32_t right[4];
            machine::load_matrices(
                right, b.chunk(16 * n + lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2));
            machine::multiply_add(c.at[2 * n], left, right[0], right[1]);
            machine::multiply_add(c.at[2 * n + 1], left, right[2], right[3]);
        }
    }
    return c;
}

// c += p b, p rounded to bfloat16 and as wide as b has rows.
template <int rows, int depth>
__device__ void multiply_add(Strip<depth>& c, const Strip<rows>& p, const SharedRows<depth>& b) {
    const int lane = static_cast<int>(threadIdx.x) % warp_threads;
#pragma unroll
    for (int k = 0; k < rows / 16; ++k) {
        const auto& first = p.at[2 * k];
        const auto& second = p.at[2 * k + 1];
        const std::uint32_t left[4] = {
            machine::pack(first[0], first[1]), machine::pack(first[2], first[3]),
            machine::pack(second[0], second[1]), machine::pack(second[2], second[3])};
#pragma unroll
        for (int n = 0; n < depth / 16; ++n) {
            std::uint32_t right[4];
            machine::load_matrices_transposed(right,
                                              b.chunk(16 * k + lane % 16, 2 * n + lane / 16));
            machine::multiply_add(c.at[2 * n], left, right[0], right[1]);
            machine::multiply_add(c.at[2 * n + 1], left, right[2], right[3]);
        }
    }
}

// A row for a query, a column for a key, the first of which is the tile's `key`: -infinity for keys
// that the query does not see, or that are not there.
template <int columns>
__device__ void hide_keys(Strip<columns>& s, const AttentionTile& tile, int key,
                          const LanePlace& lane) {
    if (key + columns <= std::min(tile.keys, tile.diagonal)) {
        return;  // each query sees all
    }
    const int end[2] = {std::min(tile.keys, tile.diagonal + lane.row) - key,
                        std::min(tile.keys, tile.diagonal + lane.row + 8) - key};
#pragma unroll
    for (int n = 0; n < columns / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if (8 * n + lane.column + i % 2 >= end[i / 2]) {
                s.at[n][i] = -INFINITY;
            }
        }
    }
}

// before + factor c. The product is rounded by itself, so that the sum of two such addends has the same
// bits whichever of them is there before.
__device__ inline float with_addend(float before, float factor, float c) {
    return __fadd_rn(before, __fmul_rn(factor, c));
}

// to += factor c, or to = factor c, in the lane's rows that `to` has.
template <int depth>
__device__ void write_strip(const Strip<depth>& c, float factor, const LanePlace& lane,
                            View<Cuda, float, 2> to, bool overwrites) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const int row = lane.row + 8 * r;
        if (row < to.rows()) {
            float* const first = to.row(row) + lane.column;
#pragma unroll
            for (int n = 0; n < depth / 8; ++n) {
                auto* const pair = reinterpret_cast<Pack<float, 2>*>(first + 8 * n);
                const Pack<float, 2> before = overwrites ? Pack<float, 2>{} : *pair;
                *pair = {with_addend(before[0], factor, c.at[n][2 * r]),
                         with_addend(before[1], factor, c.at[n][2 * r + 1])};
            }
        }
    }
}

// Over the four lanes that share a row.
template <class Combine>
__device__ float reduce_row(float x, const Combine& combine) {
    x = combine(x, __shfl_xor_sync(0xFFFFFFFFU, x, 1));
    return combine(x, __shfl_xor_sync(0xFFFFFFFFU, x, 2));
}

// Rows and columns of a view from a first one on.
template <class Device, class T>
__device__ View<Device, T, 2> part_of(View<Device, T, 2> view, Index row, int rows, Index column,
                                      int columns) {
    return view.rows({row, row + rows}).columns({column, column + columns});
}

constexpr float log2_e = std::numbers::log2e_v<float>;
inline float score_scale(Index head_dim) { return 1 / std::sqrt(static_cast<float>(head_dim)); }

// Whether rows start at multiples of `bytes`.
template <class T>
bool is_aligned(View<Cuda, T, 2> view, std::size_t bytes) {
    return reinterpret_cast<std::uintptr_t>(view.data()) % bytes == 0 &&
           static_cast<std::size_t>(view.pitch()) * sizeof(T) % bytes == 0;
}

// Calls body(std::integral_constant) if there are kernels for heads of this width.
template <class Body>
bool with_depth(Index head_dim, const Body& body) {
    const auto try_each = [&]<int... n>(std::integer_sequence<int, n...>) {
        return ((head_dim == 16 * (n + 1) &&
                 (body(std::integral_constant<int, 16 * (n + 1)>()), true)) ||
                ...);
    };
    return try_each(std::make_integer_sequence<int, 8>());
}

inline Grid grid_for(const AttentionWork& work, int shared_bytes) {
    return {dim3(static_cast<unsigned>(work.count) * static_cast<unsigned>(work.heads)),
            dim3(attention_threads), static_cast<std::size_t>(shared_bytes)};
}

}  // namespace longlora
