#include "operand.hpp"

#include <bit>
#include <cstring>
#include <string>

#include "scheduler.hpp"

namespace longlora::emulator {

namespace {

constexpr std::uint32_t piece_bytes = 16;
constexpr int piece = 8;      // elements
constexpr int core_rows = 8;  // of a pattern that repeats

// The fields of the PTX manual's table of matrix descriptors.
struct Fields {
    std::uint32_t start;        // bytes
    std::uint32_t leading;      // bytes
    std::uint32_t stride;       // bytes
    std::uint32_t base_offset;  // rows of 128 bytes
    unsigned swizzle;           // 0 none, 1 of 128 bytes, 2 of 64, 3 of 32
};

Fields fields_of(std::uint64_t descriptor) {
    const auto bytes = [descriptor](unsigned from) {
        return static_cast<std::uint32_t>(descriptor >> from & 0x3FFFU) << 4U;
    };
    constexpr std::uint64_t reserved = ~(0xC00E3FFF3FFF3FFFULL);
    if ((descriptor & reserved) != 0) {
        fail("a descriptor with reserved bits: " + std::to_string(descriptor));
    }
    return {bytes(0), bytes(16), bytes(32), static_cast<std::uint32_t>(descriptor >> 49U & 7U),
            static_cast<unsigned>(descriptor >> 62U)};
}

// Bits 4 and up of the address, as many as the swizzle has, change where bits 7 and up are set.
std::uint32_t swizzled(std::uint32_t address, const Fields& fields, std::uint32_t row_bytes) {
    const std::uint32_t row = (address >> 7U) - fields.base_offset;
    const std::uint32_t mask = row_bytes / piece_bytes - 1;
    return address ^ (row & mask) << 4U;
}

// Where the pattern must not be without a swizzle; a pattern's rows have `row_bytes`.
std::uint32_t row_bytes_of(const Fields& fields) {
    if (fields.swizzle == 0) {
        fail("a product's operand without swizzle is not emulated");
    }
    return 256U >> fields.swizzle;
}

// The sum's index is major: a row of the pattern is an outer index; 8 of them, then `stride`.
std::uint32_t sum_major(const Fields& f, std::uint32_t row_bytes, int outer, int half) {
    return f.start + static_cast<std::uint32_t>(outer / core_rows) * f.stride +
           static_cast<std::uint32_t>(outer % core_rows) * row_bytes +
           static_cast<std::uint32_t>(half) * piece_bytes;
}

// The outer index is major: a row of the pattern is a step of the sum, 8 of them, then `stride`;
// where a row ends, the outer index goes on `leading` further.
std::uint32_t outer_major(const Fields& f, std::uint32_t row_bytes, int outer_piece, int step) {
    const int pieces = static_cast<int>(row_bytes / piece_bytes);
    return f.start + static_cast<std::uint32_t>(outer_piece / pieces) * f.leading +
           static_cast<std::uint32_t>(outer_piece % pieces) * piece_bytes +
           static_cast<std::uint32_t>(step / core_rows) * f.stride +
           static_cast<std::uint32_t>(step % core_rows) * row_bytes;
}

struct Piece {
    float x[piece];
};
Piece piece_at(std::uint32_t address) {
    std::uint16_t bits[piece];
    std::memcpy(bits, scheduler.shared().at(address), sizeof bits);
    Piece result;
    for (int i = 0; i < piece; ++i) {
        result.x[i] = std::bit_cast<float>(std::uint32_t{bits[i]} << 16U);
    }
    return result;
}

// set(outer, step, value) for all elements
template <class Set>
void load(const Operand& operand, const std::vector<std::uint32_t>& addresses, const Set& set) {
    const int minor_count = operand.outer_is_major ? sum_steps : operand.extent;
    const int major_pieces = (operand.outer_is_major ? operand.extent : sum_steps) / piece;
    for (int minor = 0; minor < minor_count; ++minor) {
        for (int p = 0; p < major_pieces; ++p) {
            const Piece values =
                piece_at(addresses[static_cast<std::size_t>(minor * major_pieces + p)]);
            for (int i = 0; i < piece; ++i) {
                const int major = piece * p + i;
                set(operand.outer_is_major ? major : minor, operand.outer_is_major ? minor : major,
                    values.x[i]);
            }
        }
    }
}

}  // namespace

std::vector<std::uint32_t> addresses_of(const Operand& operand) {
    const Fields fields = fields_of(operand.descriptor);
    const std::uint32_t row_bytes = row_bytes_of(fields);
    const int minor_count = operand.outer_is_major ? sum_steps : operand.extent;
    const int major_pieces = (operand.outer_is_major ? operand.extent : sum_steps) / piece;
    std::vector<std::uint32_t> addresses;
    addresses.reserve(static_cast<std::size_t>(minor_count * major_pieces));
    for (int minor = 0; minor < minor_count; ++minor) {
        for (int p = 0; p < major_pieces; ++p) {
            const std::uint32_t plain = operand.outer_is_major
                                            ? outer_major(fields, row_bytes, p, minor)
                                            : sum_major(fields, row_bytes, minor, p);
            const std::uint32_t address = swizzled(plain, fields, row_bytes);
            if (!scheduler.shared().contains_address(address, piece_bytes)) {
                fail("a product's operand leads out of dynamic shared memory, to address " +
                     std::to_string(address));
            }
            addresses.push_back(address);
        }
    }
    return addresses;
}

void load_left(const Operand& operand, const std::vector<std::uint32_t>& addresses,
               float (*a)[sum_steps]) {
    load(operand, addresses, [a](int outer, int step, float value) { a[outer][step] = value; });
}

void load_right(const Operand& operand, const std::vector<std::uint32_t>& addresses,
                float (*b)[most_columns]) {
    load(operand, addresses, [b](int outer, int step, float value) { b[step][outer] = value; });
}

}  // namespace longlora::emulator
