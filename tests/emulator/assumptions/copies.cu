#include "core/device.hpp"
#include "core/view.hpp"
#include "emulator/assumptions/assumption.hpp"
#include "emulator/assumptions/support.cuh"

// Barriers in memory, named barriers, copies by TMA, stores of matrices.

namespace longlora {
namespace {

using machine::Barrier;

// ---- barriers ----

__global__ void aligned_kernel(std::uint32_t* rests) {
    unsigned char* const shared = machine::aligned_shared();
    rests[0] = machine::shared_address(shared) % 1024;
    rests[1] = static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(shared) % 1024);
}
std::string alignment_of_shared_memory() {
    const Array<std::uint32_t> rests(2);
    run_block(aligned_kernel, 1, 226 << 10U, rests.data());
    const auto seen = rests.values();
    return seen[0] == 0 && seen[1] == 0 ? ""
                                        : "rests of 1,024: address " + std::to_string(seen[0]) +
                                              ", pointer " + std::to_string(seen[1]);
}

// The first warp hands numbers to the second through one place, in several rounds.
__global__ void ring_kernel(int* out, int rounds) {
    unsigned char* const shared = machine::aligned_shared();
    Barrier* const full = reinterpret_cast<Barrier*>(shared);
    Barrier* const empty = full + 1;
    int* const data = reinterpret_cast<int*>(shared + 128);
    if (threadIdx.x == 0) {
        machine::init_barrier(full, 32);
        machine::init_barrier(empty, 32);
        machine::publish_barriers();
    }
    __syncthreads();
    const int lane = static_cast<int>(threadIdx.x % 32);
    for (int round = 0; round < rounds; ++round) {
        if (threadIdx.x < 32) {
            machine::wait(empty, round % 2 ^ 1);
            data[lane] = 100 * round + lane;
            machine::arrive(full);
        } else {
            machine::wait(full, round % 2);
            out[32 * round + lane] = data[31 - lane];
            machine::arrive(empty);
        }
    }
}
std::string phases_of_barriers() {
    constexpr int rounds = 7;
    const Array<int> out(std::size_t{32} * rounds);
    run_block(ring_kernel, 64, 1024, out.data(), rounds);
    const auto seen = out.values();
    for (int i = 0; i < 32 * rounds; ++i) {
        const int expected = 100 * (i / 32) + 31 - i % 32;
        if (seen[static_cast<std::size_t>(i)] != expected) {
            return "round " + std::to_string(i / 32) + " received " +
                   std::to_string(seen[static_cast<std::size_t>(i)]) + ", not " +
                   std::to_string(expected);
        }
    }
    return "";
}

// Numbers go from the lower half to the upper one and, doubled, back.
__global__ void named_kernel(int* out) {
    int* const data = reinterpret_cast<int*>(machine::aligned_shared());
    const int n = static_cast<int>(blockDim.x);
    const int half = n / 2;
    const int i = static_cast<int>(threadIdx.x);
    if (i < half) {
        data[i] = i;
        machine::arrive_threads(1, n);
        machine::sync_threads(15, n);
        out[i] = data[half + (i + 1) % half];
    } else {
        machine::sync_threads(1, n);
        const int value = data[(i + 1) % half];
        machine::sync_threads(3, half);
        data[i] = 2 * value;
        machine::arrive_threads(15, n);
    }
}
std::string named_barriers() {
    constexpr int half = 128;
    const Array<int> out(half);
    run_block(named_kernel, 2 * half, 2048, out.data());
    const auto seen = out.values();
    for (int i = 0; i < half; ++i) {
        if (seen[static_cast<std::size_t>(i)] != 2 * ((i + 2) % half)) {
            return "thread " + std::to_string(i) + " received " +
                   std::to_string(seen[static_cast<std::size_t>(i)]);
        }
    }
    return "";
}

__global__ void __launch_bounds__(384, 1) registers_kernel(int* out) {
    if (threadIdx.x < 128) {
        machine::keep_registers<40>();
    } else {
        machine::take_registers<232>();
    }
    out[threadIdx.x] = static_cast<int>(threadIdx.x);
}
std::string registers_move() {
    const Array<int> out(384);
    run_block(registers_kernel, 384, 0, out.data());
    return out.values() == count_up<int>(384) ? "" : "not all threads went on";
}

// ---- copies ----

__global__ void bytes_kernel(const uint4* from, uint4* out, int count) {
    unsigned char* const shared = machine::aligned_shared();
    Barrier* const full = reinterpret_cast<Barrier*>(shared);
    uint4* const data = reinterpret_cast<uint4*>(shared + 128);
    if (threadIdx.x == 0) {
        machine::init_barrier(full, 1);
        machine::publish_barriers();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        const int bytes = count * static_cast<int>(sizeof(uint4));
        machine::arrive_expecting(full, 2 * bytes);
        machine::copy_bytes(data, from, bytes, full);
        machine::copy_bytes(data + count, from + count, bytes, full);
    }
    machine::wait(full, 0);
    for (int i = static_cast<int>(threadIdx.x); i < 2 * count; i += static_cast<int>(blockDim.x)) {
        out[i] = data[i];
    }
}
std::string copies_of_bytes() {
    constexpr int count = 32;
    const auto words = count_up<std::uint32_t>(std::size_t{8} * count);
    const Array<std::uint32_t> from(words);
    const Array<std::uint32_t> out(words.size());
    run_block(bytes_kernel, 32, 2048, reinterpret_cast<const uint4*>(from.data()),
              reinterpret_cast<uint4*>(out.data()), count);
    return out.values() == words ? "" : "other bytes";
}

// Boxes one behind the other, on one barrier; what is in shared memory then.
struct Boxes {
    int rows[2];
    int block;
    int count;
    int bytes;  // of one
};
__global__ void box_kernel(const __grid_constant__ machine::TensorMap map, Boxes boxes,
                           uint4* out) {
    unsigned char* const shared = machine::aligned_shared();
    Barrier* const full = reinterpret_cast<Barrier*>(shared + boxes.count * boxes.bytes);
    if (threadIdx.x == 0) {
        machine::prefetch(map);
        machine::init_barrier(full, 1);
        machine::publish_barriers();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        machine::arrive_expecting(full, boxes.count * boxes.bytes);
        for (int i = 0; i < boxes.count; ++i) {
            machine::copy_box(shared + i * boxes.bytes, map, boxes.rows[i], boxes.block, full);
        }
    }
    machine::wait(full, 0);
    const int chunks = boxes.count * boxes.bytes / static_cast<int>(sizeof(uint4));
    for (int i = static_cast<int>(threadIdx.x); i < chunks; i += static_cast<int>(blockDim.x)) {
        out[i] = reinterpret_cast<const uint4*>(shared)[i];
    }
}

// A matrix whose elements all differ, and what boxes of it become.
class CopiedMatrix {
public:
    CopiedMatrix(int rows, int columns, int pitch)
        : rows_(rows), columns_(columns), pitch_(pitch), elements_(numbers(rows * pitch)) {}

    // Empty: as expected.
    std::string copy(const hopper::Box& box, Boxes boxes) const {
        machine::TensorMap map;
        const View<Cuda, const BFloat16, 2> view(elements_.data(), rows_, columns_, pitch_);
        if (!hopper::make_tensor_map(view, box, map)) {
            return "the driver refuses the map";
        }
        boxes.bytes = 128 * box.rows * box.blocks;
        const Array<BFloat16> out(static_cast<std::size_t>(boxes.count * boxes.bytes / 2));
        run_block(box_kernel, 128, static_cast<std::size_t>(boxes.count * boxes.bytes + 64), map,
                  boxes, reinterpret_cast<uint4*>(out.data()));
        const auto seen = out.values();
        for (int i = 0; i < boxes.count; ++i) {
            const std::string difference =
                compare(box, boxes.rows[i], boxes.block,
                        seen.data() + static_cast<std::ptrdiff_t>(i) * boxes.bytes / 2);
            if (!difference.empty()) {
                return "box " + std::to_string(i) + ": " + difference;
            }
        }
        return "";
    }

private:
    static std::vector<BFloat16> numbers(int count) {
        std::vector<BFloat16> result(static_cast<std::size_t>(count));
        for (std::size_t i = 0; i < result.size(); ++i) {
            result[i] = {static_cast<std::uint16_t>(i + 1)};
        }
        return result;
    }

    std::string compare(const hopper::Box& box, int first, int block, const BFloat16* seen) const {
        for (int row = 0; row < box.rows; ++row) {
            for (int column = 0; column < 64 * box.blocks; ++column) {
                const int source = (first + row) * pitch_ + 64 * block + column;
                const auto expected =
                    static_cast<std::uint16_t>(first + row < rows_ ? source + 1 : 0);
                const std::uint16_t bits = seen[place_in_tile(box.rows, row, column)].bits;
                if (bits != expected) {
                    return "where row " + std::to_string(row) + ", column " +
                           std::to_string(column) + " of the box should be is " + text(bits) +
                           ", not " + text(expected);
                }
            }
        }
        return "";
    }

    std::string text(std::uint16_t bits) const {
        return bits == 0 ? "0"
                         : "the matrix's element (" + std::to_string((bits - 1) / pitch_) + ", " +
                               std::to_string((bits - 1) % pitch_) + ")";
    }

    int rows_;
    int columns_;
    int pitch_;
    Array<BFloat16> elements_;
};

std::string one_block_of_eight_rows() {
    return CopiedMatrix(8, 64, 64).copy({8, 1}, {{0, 0}, 0, 1, 0});
}
std::string blocks_follow_one_another() {
    return CopiedMatrix(64, 128, 128).copy({64, 2}, {{0, 0}, 0, 1, 0});
}
std::string places_in_a_packed_matrix() {
    return CopiedMatrix(100, 384, 400).copy({32, 2}, {{17, 0}, 3, 1, 0});
}
std::string boxes_of_the_largest_size() {
    return CopiedMatrix(128, 256, 256).copy({128, 2}, {{0, 0}, 2, 1, 0});
}
std::string boxes_on_one_barrier() {
    return CopiedMatrix(100, 256, 256).copy({64, 2}, {{0, 36}, 1, 2, 0});
}
std::string rows_beyond_the_matrix() {
    return CopiedMatrix(100, 256, 256).copy({64, 2}, {{60, 128}, 1, 2, 0});
}

// ---- stores of matrices ----

// Register m of lane l holds 256 m + 8 l and the next.
__global__ void store_kernel(std::uint32_t* out, bool is_transposed) {
    unsigned char* const shared = machine::aligned_shared();
    const std::uint32_t lane = threadIdx.x;
    std::uint32_t r[4];
    for (std::uint32_t m = 0; m < 4; ++m) {
        const std::uint32_t low = 256 * m + 8 * lane;
        r[m] = low | (low + 1) << 16U;
    }
    if (is_transposed) {
        machine::store_matrices_transposed(shared + 16 * lane, r);
    } else {
        machine::store_matrices(shared + 16 * lane, r);
    }
    __syncwarp();
    for (std::uint32_t i = 0; i < 4; ++i) {
        out[4 * lane + i] = reinterpret_cast<const std::uint32_t*>(shared)[4 * lane + i];
    }
}
std::string store(bool is_transposed) {
    const Array<std::uint32_t> out(128);
    run_block(store_kernel, 32, 512, out.data(), is_transposed);
    const auto words = out.values();
    for (std::uint32_t i = 0; i < 256; ++i) {
        const std::uint32_t row = i / 8 % 8;
        const std::uint32_t column = i % 8;
        const std::uint32_t major = is_transposed ? column : row;
        const std::uint32_t minor = is_transposed ? row : column;
        const std::uint32_t expected = 256 * (i / 64) + 8 * (4 * major + minor / 2) + minor % 2;
        const std::uint32_t seen = words[i / 2] >> 16 * (i % 2) & 0xFFFFU;
        if (seen != expected) {
            return "matrix " + std::to_string(i / 64) + ", row " + std::to_string(row) +
                   ", column " + std::to_string(column) + " is from lane " +
                   std::to_string(seen % 256 / 8) + ", register " + std::to_string(seen / 256) +
                   ", half " + std::to_string(seen % 2) + ", not lane " +
                   std::to_string(expected % 256 / 8);
        }
    }
    return "";
}
std::string stores_of_matrices() { return store(false); }
std::string transposed_stores_of_matrices() { return store(true); }

}  // namespace

std::vector<Assumption> assumptions_of_copies() {
    return {
        {"a block may have 227 KiB; aligned_shared() is aligned as address and as pointer",
         alignment_of_shared_memory},
        {"barriers in memory: a new one lets parity 1 pass, phases alternate, arrivals count",
         phases_of_barriers},
        {"named barriers: arrive and sync among parts of the block", named_barriers},
        {"setmaxnreg: 40 + 2 x 232 registers in 384 threads", registers_move},
        {"copy_bytes: lands whole, and its bytes end the phase", copies_of_bytes},
        {"copy_box: a map of strides {pitch, 128} is accepted; chunk c of row r lands at c ^ (r % "
         "8)",
         one_block_of_eight_rows},
        {"copy_box: [columns / 64][rows][64]", blocks_follow_one_another},
        {"copy_box: coordinates {0, row, block}, a pitch beyond the columns",
         places_in_a_packed_matrix},
        {"copy_box: 128 rows, 128 columns", boxes_of_the_largest_size},
        {"copy_box: two boxes end one phase", boxes_on_one_barrier},
        {"copy_box: rows beyond the matrix are zeros and count as bytes, also a whole box",
         rows_beyond_the_matrix},
        {"store_matrices: what load_matrices would load again", stores_of_matrices},
        {"store_matrices_transposed", transposed_stores_of_matrices},
    };
}

}  // namespace longlora
