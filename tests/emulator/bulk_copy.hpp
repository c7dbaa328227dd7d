#pragma once

#include <cstdint>

namespace longlora::emulator {

// Copies into shared memory that end by bytes of a barrier. Their place is NaN until they land, as late
// as can be or, with a seed, at any time; the source is read then.

// The map's box of {64, rows, blocks} elements from {0, row, block} on, with the 128-byte swizzle.
void copy_box(void* shared, const void* map, int row, int block, std::uint64_t* barrier);
void copy_bytes(void* shared, const void* global, int bytes, std::uint64_t* barrier);

}  // namespace longlora::emulator
