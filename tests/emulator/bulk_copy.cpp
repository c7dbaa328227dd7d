#include "bulk_copy.hpp"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "hopper.hpp"
#include "memory.hpp"
#include "scheduler.hpp"
#include "tensor_map.hpp"

namespace longlora::emulator {

namespace {

constexpr std::uint32_t chunk_bytes = 16;
constexpr std::uint32_t row_bytes = 128;
constexpr std::uint32_t pattern_bytes = 1024;
constexpr unsigned char poison = 0xFF;

// Fails unless the bytes may become a copy's place; makes them NaN.
void prepare(const char* name, void* shared, std::uint64_t bytes, std::uint32_t alignment,
             const std::uint64_t* barrier) {
    require_hopper(name);
    if (!scheduler.shared().contains_dynamic(shared, bytes)) {
        fail(std::string(name) + " to what is not dynamic shared memory");
    }
    if (scheduler.shared().address(shared) % alignment != 0) {
        fail(std::string(name) + " to an address that is not a multiple of " +
             std::to_string(alignment));
    }
    hopper.barriers.check(barrier, name);
    hopper.copies.begin(shared, bytes, name);
    std::memset(shared, poison, bytes);
}

void end(const void* shared, std::uint64_t bytes, const std::uint64_t* barrier) {
    hopper.copies.end(shared);
    hopper.barriers.land(barrier, static_cast<int>(bytes));
}

// The row's bytes of the box; what the tensor has not is 0.
void read_row(const TensorMapFields& map, std::int64_t row, std::int64_t block,
              unsigned char (&bytes)[row_bytes]) {
    std::memset(bytes, 0, sizeof bytes);
    const auto is_in = [&map](int dimension, std::int64_t at) {
        return at >= 0 && at < static_cast<std::int64_t>(map.sizes[dimension]);
    };
    if (is_in(1, row) && is_in(2, block)) {
        const std::uint64_t elements = std::min<std::uint64_t>(map.box[0], map.sizes[0]);
        std::memcpy(bytes,
                    map.address + static_cast<std::uint64_t>(row) * map.strides[1] +
                        static_cast<std::uint64_t>(block) * map.strides[2],
                    elements * map.strides[0]);
    }
}

// Bits 4 to 6 of an address change where bits 7 to 9 are set.
void write_swizzled(std::uint32_t address, const unsigned char (&bytes)[row_bytes],
                    std::uint32_t count) {
    for (std::uint32_t i = 0; i < count; i += chunk_bytes) {
        const std::uint32_t plain = address + i;
        const std::uint32_t swizzled = plain ^ (plain >> 7U & 7U) << 4U;
        std::memcpy(scheduler.shared().at(swizzled), bytes + i, chunk_bytes);
    }
}

void land_box(const TensorMapFields& map, void* shared, int row, int block) {
    unsigned char bytes[row_bytes];
    std::uint32_t address = scheduler.shared().address(shared);
    const auto count = static_cast<std::uint32_t>(map.box[0] * map.strides[0]);
    for (std::uint32_t z = 0; z < map.box[2]; ++z) {
        for (std::uint32_t y = 0; y < map.box[1]; ++y) {
            read_row(map, std::int64_t{row} + y, std::int64_t{block} + z, bytes);
            write_swizzled(address, bytes, count);
            address += count;
        }
    }
}

}  // namespace

void CopiesUnderWay::begin(const void* shared, std::uint64_t bytes, const char* name) {
    const auto* const first = static_cast<const unsigned char*>(shared);
    for (const Range& other : ranges_) {
        if (first < other.first + other.bytes && other.first < first + bytes) {
            fail(std::string(name) + " to where another copy is under way");
        }
    }
    ranges_.push_back({first, bytes});
}

void CopiesUnderWay::end(const void* shared) {
    std::erase_if(ranges_, [shared](const Range& range) { return range.first == shared; });
}

void copy_box(void* shared, const void* map, int row, int block, std::uint64_t* barrier) {
    TensorMapFields fields;
    std::memcpy(&fields, map, sizeof fields);
    if (fields.mark != TensorMapFields::valid) {
        fail("copy_box with a tensor map that was not made");
    }
    if (block < 0 ||
        block + std::int64_t{fields.box[2]} > static_cast<std::int64_t>(fields.sizes[2])) {
        fail("copy_box from block " + std::to_string(block) + ", " + std::to_string(fields.box[2]) +
             " of them, of " + std::to_string(fields.sizes[2]));
    }
    prepare("copy_box", shared, fields.box_bytes(), pattern_bytes, barrier);
    scheduler.later([=] {
        land_box(fields, shared, row, block);
        end(shared, fields.box_bytes(), barrier);
    });
}

void copy_bytes(void* shared, const void* global, int bytes, std::uint64_t* barrier) {
    if (bytes <= 0 || bytes % chunk_bytes != 0 ||
        reinterpret_cast<std::uintptr_t>(global) % chunk_bytes != 0) {
        fail("copy_bytes of " + std::to_string(bytes) +
             " bytes: not a multiple of 16, or from an address that is none");
    }
    const auto count = static_cast<std::uint64_t>(bytes);
    if (!is_device_memory(global, count)) {
        fail("copy_bytes from what is not in the GPU's memory");
    }
    prepare("copy_bytes", shared, count, chunk_bytes, barrier);
    scheduler.later([=] {
        std::memcpy(shared, global, count);
        end(shared, count, barrier);
    });
}

}  // namespace longlora::emulator
