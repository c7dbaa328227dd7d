#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace longlora::emulator {

// An operand of a warpgroup's product in shared memory, by nothing but the 64 bits of its descriptor.
// It has `extent` rows (left operand) or columns (right), the outer index, and 16 steps of the sum.
struct Operand {
    std::uint64_t descriptor;
    bool outer_is_major;  // neighbours in memory are of the outer index, not of the sum's
    int extent;           // a multiple of 8

    bool operator==(const Operand&) const = default;
};

constexpr int sum_steps = 16;

// The addresses of its 16-byte pieces: of each outer index in turn the two halves of the sum or, where
// the outer index is major, of each step in turn 8 outer indices each. Fails where the descriptor is
// not understood, or leads out of dynamic shared memory.
std::vector<std::uint32_t> addresses_of(const Operand& operand);

// The elements at these addresses as they are now.
void load_left(const Operand& operand, const std::vector<std::uint32_t>& addresses,
               float (*a)[sum_steps]);
constexpr int most_columns = 256;
void load_right(const Operand& operand, const std::vector<std::uint32_t>& addresses,
                float (*b)[most_columns]);

}  // namespace longlora::emulator
