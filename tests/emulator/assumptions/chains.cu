#include "core/device.hpp"
#include "core/view.hpp"
#include "emulator/assumptions/assumption.hpp"
#include "emulator/assumptions/product_kernel.cuh"

// Several of these things together, as attention's kernels use them.

namespace longlora {
namespace {

using machine::Barrier;

template <int count>
__device__ void write_c(float* out, const float (&c)[count]) {
    for (int i = 0; i < count; ++i) {
        out[static_cast<int>(threadIdx.x) * count + i] = c[i];
    }
}

// ---- two groups of products under way ----

// first = a b, second = first + ... : each of 4 steps; first is read while second may be under way.
__global__ void __launch_bounds__(128, 1)
    groups_kernel(const uint4* left_tile, const uint4* right_tile, float* first_out,
                  float* second_out) {
    constexpr int bytes = 64 * 128;
    unsigned char* const left = machine::aligned_shared();
    unsigned char* const right = left + bytes;
    copy_tile(left, left_tile, bytes);
    copy_tile(right, right_tile, bytes);
    machine::fence_shared();
    __syncthreads();
    const machine::Operand a = machine::make_operand(left, bytes);
    const machine::Operand b = machine::make_operand(right, bytes);
    float first[32];
    float second[32];
    machine::fence_products();
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        machine::multiply_async<Major::sum, Major::sum>(first, machine::advance(a, 32 * k),
                                                        machine::advance(b, 32 * k), k > 0);
    }
    machine::commit_products();
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        machine::multiply_async<Major::sum, Major::outer>(second, machine::advance(a, 32 * k),
                                                          machine::advance(b, 2048 * k), k > 0);
    }
    machine::commit_products();
    machine::wait_for_products<1>();
    machine::tie(first);
    write_c(first_out, first);
    machine::wait_for_products<0>();
    machine::tie(second);
    write_c(second_out, second);
}

// Small integers, so that sums are exact and most of them fit bfloat16.
int left_number(int row, int column) { return (row * 5 + column * 3) % 7 - 3; }
int right_number(int row, int column) { return (row * 3 + column * 11 + row * column) % 5 - 2; }

int sum_of_products(int row, int column, int depth, bool is_transposed) {
    int sum = 0;
    for (int k = 0; k < depth; ++k) {
        sum += left_number(row, k) *
               (is_transposed ? right_number(column, k) : right_number(k, column));
    }
    return sum;
}

std::string groups_of_products() {
    const Array<BFloat16> left(make_tile(64, 64, left_number));
    const Array<BFloat16> right(make_tile(64, 64, right_number));
    const Array<float> first(std::size_t{128} * 32);
    const Array<float> second(std::size_t{128} * 32);
    run_block(groups_kernel, 128, 2 * 64 * 128, reinterpret_cast<const uint4*>(left.data()),
              reinterpret_cast<const uint4*>(right.data()), first.data(), second.data());
    const std::string difference = compare_c(first.values(), 32, [](int row, int column) {
        return sum_of_products(row, column, 64, true);
    });
    return difference.empty() ? compare_c(second.values(), 32,
                                          [](int row, int column) {
                                              return sum_of_products(row, column, 64, false);
                                          })
                              : "the other group, " + difference;
}

// ---- c as the left operand of another product ----

// o = (a b') b, with a b' rounded to bfloat16 in registers: attention's two products.
__global__ void __launch_bounds__(128, 1)
    two_products_kernel(const uint4* left_tile, const uint4* right_tile, float* out) {
    constexpr int bytes = 64 * 128;
    unsigned char* const left = machine::aligned_shared();
    unsigned char* const right = left + bytes;
    copy_tile(left, left_tile, bytes);
    copy_tile(right, right_tile, bytes);
    machine::fence_shared();
    __syncthreads();
    const machine::Operand a = machine::make_operand(left, bytes);
    const machine::Operand b = machine::make_operand(right, bytes);
    float s[32];
    machine::fence_products();
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        machine::multiply_async<Major::sum, Major::sum>(s, machine::advance(a, 32 * k),
                                                        machine::advance(b, 32 * k), k > 0);
    }
    machine::commit_products();
    machine::wait_for_products<0>();
    machine::tie(s);
    std::uint32_t p[4][4];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            p[k][j] = machine::pack(s[8 * k + 2 * j], s[8 * k + 2 * j + 1]);
        }
    }
    float o[32];
    machine::fence_products();
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        machine::multiply_async<Major::outer>(o, p[k], machine::advance(b, 2048 * k), k > 0);
    }
    machine::commit_products();
    machine::wait_for_products<0>();
    machine::tie(o);
    write_c(out, o);
}

std::string products_of_c() {
    const Array<BFloat16> left(make_tile(64, 64, left_number));
    const Array<BFloat16> right(make_tile(64, 64, right_number));
    const Array<float> out(std::size_t{128} * 32);
    run_block(two_products_kernel, 128, 2 * 64 * 128, reinterpret_cast<const uint4*>(left.data()),
              reinterpret_cast<const uint4*>(right.data()), out.data());
    std::vector<float> s(std::size_t{64} * 64);
    for (int row = 0; row < 64; ++row) {
        for (int key = 0; key < 64; ++key) {
            s[static_cast<std::size_t>(64 * row + key)] =
                to_float(to_bfloat16(static_cast<float>(sum_of_products(row, key, 64, true))));
        }
    }
    return compare_c(out.values(), 32, [&](int row, int column) {
        float sum = 0;
        for (int key = 0; key < 64; ++key) {
            sum += s[static_cast<std::size_t>(64 * row + key)] *
                   static_cast<float>(right_number(key, column));
        }
        return sum;
    });
}

// ---- what threads store as an operand ----

// Each warp stores its 16 rows of c (64, 64) as a tile; the product with an identity gives 16 columns
// of it back. Transposed, the tile is c', and it is read with the other index as neighbours.
template <bool is_transposed>
__global__ void __launch_bounds__(128, 1)
    stored_kernel(const float* in, const uint4* identity_tile, float* out) {
    constexpr int bytes = 64 * 128;
    unsigned char* const tile = machine::aligned_shared();
    unsigned char* const identity = tile + bytes;
    copy_tile(identity, identity_tile, bytes);
    const int warp = static_cast<int>(threadIdx.x / 32);
    const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
    for (int k = 0; k < 4; ++k) {  // columns 16 k .. 16 k + 15
        std::uint32_t r[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const float* const pair = in + static_cast<int>(threadIdx.x) * 32 + 8 * k + 2 * j;
            r[j] = machine::pack(pair[0], pair[1]);
        }
        // Matrix m of r: rows 8 (m % 2), columns 8 (m / 2) of these 16 x 16.
        const int major = lane / 8 % 2;
        const int minor = lane / 16;
        if (is_transposed) {
            const int row = 16 * k + 8 * minor + lane % 8;
            const int chunk = (2 * warp + major) ^ (row % 8);
            machine::store_matrices_transposed(tile + 128 * row + 16 * chunk, r);
        } else {
            const int row = 16 * warp + 8 * major + lane % 8;
            const int chunk = (2 * k + minor) ^ (row % 8);
            machine::store_matrices(tile + 128 * row + 16 * chunk, r);
        }
    }
    machine::fence_shared();
    __syncthreads();
    constexpr Major left = is_transposed ? Major::outer : Major::sum;
    const machine::Operand a = machine::make_operand(tile, bytes);
    const machine::Operand b = machine::make_operand(identity, bytes);
    for (int k = 0; k < 4; ++k) {
        float c[32];
        machine::fence_products();
        machine::multiply_async<left, Major::sum>(
            c, machine::advance(a, (is_transposed ? 2048 : 32) * k), b, false);
        machine::commit_products();
        machine::wait_for_products<0>();
        machine::tie(c);
        write_c(out + k * 128 * 32, c);
    }
}

template <bool is_transposed>
std::string stored_operand() {
    const auto value = [](int row, int column) { return (row * 3 + column * 7) % 128; };
    std::vector<float> c(std::size_t{128} * 32);
    for (int t = 0; t < 128; ++t) {
        for (int i = 0; i < 32; ++i) {
            const auto [row, column] = place_in_c(t, i);
            c[static_cast<std::size_t>(32 * t + i)] = static_cast<float>(value(row, column));
        }
    }
    const Array<float> in(c);
    const Array<BFloat16> identity(
        make_tile(64, 64, [](int row, int column) { return row % 16 == column % 16 ? 1 : 0; }));
    const Array<float> out(std::size_t{4} * 128 * 32);
    run_block(stored_kernel<is_transposed>, 128, 2 * 64 * 128, in.data(),
              reinterpret_cast<const uint4*>(identity.data()), out.data());
    const auto all = out.values();
    for (int k = 0; k < 4; ++k) {
        const std::vector<float> step(all.begin() + std::ptrdiff_t{128 * 32} * k,
                                      all.begin() + std::ptrdiff_t{128 * 32} * (k + 1));
        const std::string difference = compare_c(
            step, 32, [&](int row, int column) { return value(row, 16 * k + column % 16); });
        if (!difference.empty()) {
            return "columns from " + std::to_string(16 * k) + " on, " + difference;
        }
    }
    return "";
}

// ---- a producer and two consumers ----

constexpr int stages = 2;
constexpr int depth = 128;
constexpr int tile_rows = 128;
constexpr int block_bytes = tile_rows * 128;
constexpr int tile_bytes = block_bytes * depth / 64;

struct Ring {
    unsigned char* left;
    unsigned char* right;
    Barrier* left_full;
    Barrier* full;
    Barrier* empty;
};

__device__ inline void produce(const Ring& ring, const machine::TensorMap& left,
                               const machine::TensorMap& right, int tiles) {
    machine::arrive_expecting(ring.left_full, tile_bytes);
    machine::copy_box(ring.left, left, 0, 0, ring.left_full);
    for (int tile = 0; tile < tiles; ++tile) {
        const int stage = tile % stages;
        machine::wait(ring.empty + stage, tile / stages % 2 ^ 1);
        machine::arrive_expecting(ring.full + stage, tile_bytes);
        machine::copy_box(ring.right + stage * tile_bytes, right, tile_rows * tile, 2,
                          ring.full + stage);
    }
}

__device__ inline void consume(const Ring& ring, int group, int tiles, float* out) {
    machine::wait(ring.left_full, 0);
    const machine::Operand a = machine::make_operand(ring.left + group * 64 * 128, block_bytes);
    for (int tile = 0; tile < tiles; ++tile) {
        const int stage = tile % stages;
        machine::wait(ring.full + stage, tile / stages % 2);
        const machine::Operand b =
            machine::make_operand(ring.right + stage * tile_bytes, block_bytes);
        float c[64];
        machine::fence_products();
#pragma unroll
        for (int k = 0; k < depth / 16; ++k) {
            const int step = k % 4 * 32 + k / 4 * block_bytes;
            machine::multiply_async<Major::sum, Major::sum>(c, machine::advance(a, step),
                                                            machine::advance(b, step), k > 0);
        }
        machine::commit_products();
        machine::wait_for_products<0>();
        machine::tie(c);
        machine::arrive(ring.empty + stage);
        for (int i = 0; i < 64; ++i) {
            const int thread = static_cast<int>(threadIdx.x) % 128;
            out[((tile * 2 + group) * 128 + thread) * 64 + i] = c[i];
        }
    }
}

__global__ void __launch_bounds__(384, 1)
    ring_of_tiles_kernel(const __grid_constant__ machine::TensorMap left,
                         const __grid_constant__ machine::TensorMap right, int tiles, float* out) {
    unsigned char* const shared = machine::aligned_shared();
    Barrier* const barriers = reinterpret_cast<Barrier*>(shared + (1 + stages) * tile_bytes);
    const Ring ring{shared, shared + tile_bytes, barriers, barriers + 1, barriers + 1 + stages};
    if (threadIdx.x == 0) {
        machine::init_barrier(ring.left_full, 1);
        for (int stage = 0; stage < stages; ++stage) {
            machine::init_barrier(ring.full + stage, 1);
            machine::init_barrier(ring.empty + stage, 256);
        }
        machine::publish_barriers();
    }
    __syncthreads();
    if (threadIdx.x < 128) {
        machine::keep_registers<40>();
        if (threadIdx.x == 0) {
            produce(ring, left, right, tiles);
        }
    } else {
        machine::take_registers<232>();
        consume(ring, static_cast<int>(threadIdx.x) / 128 - 1, tiles, out);
    }
}

// One column in 4 of the right matrix's rows is beyond its end: zeros.
std::string ring_of_tiles() {
    constexpr int tiles = 5;
    constexpr int rows = tile_rows * tiles - 40;
    constexpr int columns = 256;
    std::vector<BFloat16> left(std::size_t{tile_rows} * depth);
    for (int row = 0; row < tile_rows; ++row) {
        for (int k = 0; k < depth; ++k) {
            left[static_cast<std::size_t>(row * depth + k)] =
                to_bfloat16(static_cast<float>(left_number(row, k)));
        }
    }
    std::vector<BFloat16> right(std::size_t{rows} * columns);
    for (int row = 0; row < rows; ++row) {
        for (int column = 0; column < columns; ++column) {
            right[static_cast<std::size_t>(row * columns + column)] =
                to_bfloat16(static_cast<float>(right_number(row, column - 128)));
        }
    }
    const Array<BFloat16> left_matrix(left);
    const Array<BFloat16> right_matrix(right);
    machine::TensorMap left_map;
    machine::TensorMap right_map;
    using Matrix = View<Cuda, const BFloat16, 2>;
    if (!hopper::make_tensor_map(Matrix(left_matrix.data(), tile_rows, depth), {tile_rows, 2},
                                 left_map) ||
        !hopper::make_tensor_map(Matrix(right_matrix.data(), rows, columns), {tile_rows, 2},
                                 right_map)) {
        return "the driver refuses a map";
    }
    const Array<float> out(std::size_t{tiles} * 256 * 64);
    run_block(ring_of_tiles_kernel, 384, (1 + stages) * tile_bytes + 64, left_map, right_map, tiles,
              out.data());
    const auto all = out.values();
    for (int part = 0; part < 2 * tiles; ++part) {
        const std::vector<float> c(all.begin() + std::ptrdiff_t{128 * 64} * part,
                                   all.begin() + std::ptrdiff_t{128 * 64} * (part + 1));
        const std::string difference = compare_c(c, 64, [part](int row, int column) {
            const int key = tile_rows * (part / 2) + column;
            return key < rows ? sum_of_products(64 * (part % 2) + row, key, depth, true) : 0;
        });
        if (!difference.empty()) {
            return "tile " + std::to_string(part / 2) + ", group " + std::to_string(part % 2) +
                   ", " + difference;
        }
    }
    return "";
}

}  // namespace

std::vector<Assumption> assumptions_of_chains() {
    return {
        {"two groups of products under way; the first may be read after wait_for_products<1>",
         groups_of_products},
        {"c, packed in pairs, is a left operand in registers", products_of_c},
        {"store_matrices and fence_shared make a left operand <sum>", stored_operand<false>},
        {"store_matrices_transposed and fence_shared make a left operand <outer>",
         stored_operand<true>},
        {"a producer of boxes and two warpgroups that multiply, over two stages", ring_of_tiles},
    };
}

}  // namespace longlora
