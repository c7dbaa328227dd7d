#pragma once

#include <cstdint>

#include "cuda.h"

namespace longlora::emulator {

// What the emulator's CUtensorMap holds: three dimensions of bfloat16, the first one contiguous.
struct TensorMapFields {
    static constexpr std::uint64_t valid = 0x70616D726F736E65;
    static constexpr int rank = 3;

    std::uint64_t mark;
    const unsigned char* address;
    std::uint64_t sizes[rank];
    std::uint64_t strides[rank];  // bytes
    std::uint32_t box[rank];

    std::uint64_t box_bytes() const { return strides[0] * box[0] * box[1] * box[2]; }
};
static_assert(sizeof(TensorMapFields) <= sizeof(CUtensorMap));

}  // namespace longlora::emulator
