#include "tensor_map.hpp"

#include <cstring>
#include <string>

#include "cuda_runtime_api.h"
#include "emulator.hpp"
#include "memory.hpp"
#include "runtime.hpp"

namespace longlora::emulator {

namespace {

constexpr int rank = TensorMapFields::rank;
constexpr std::uint64_t element_bytes = 2;
constexpr std::uint64_t swizzle_bytes = 128;

bool is_legal(const TensorMapFields& map, const cuuint32_t* steps) {
    constexpr std::uint64_t alignment = 16;
    constexpr std::uint32_t most_in_box = 256;
    bool is_legal = reinterpret_cast<std::uintptr_t>(map.address) % alignment == 0;
    for (int i = 0; i < rank; ++i) {
        is_legal = is_legal && map.sizes[i] >= 1 && map.sizes[i] <= std::uint64_t{1} << 32U &&
                   map.box[i] >= 1 && map.box[i] <= most_in_box && steps[i] == 1 &&
                   (i == 0 || (map.strides[i] % alignment == 0 && map.strides[i] < 1ULL << 40U));
    }
    const std::uint64_t row_bytes = map.box[0] * element_bytes;
    return is_legal && row_bytes % alignment == 0 && row_bytes <= swizzle_bytes;
}

std::uint64_t bytes_of(const TensorMapFields& map) {
    std::uint64_t last = 0;
    for (int i = 0; i < rank; ++i) {
        last += (map.sizes[i] - 1) * map.strides[i];
    }
    return last + element_bytes;
}

}  // namespace

}  // namespace longlora::emulator

using longlora::emulator::bytes_of;
using longlora::emulator::capability;
using longlora::emulator::Failure;
using longlora::emulator::is_device_memory;
using longlora::emulator::is_legal;
using longlora::emulator::TensorMapFields;

CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank,
                                void* address, const cuuint64_t* sizes, const cuuint64_t* strides,
                                const cuuint32_t* box, const cuuint32_t* steps,
                                CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                                CUtensorMapL2promotion /*promotion*/,
                                CUtensorMapFloatOOBfill /*fill*/) {
    if (capability().major < 9 || type != CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 ||
        rank != TensorMapFields::rank || interleave != CU_TENSOR_MAP_INTERLEAVE_NONE ||
        swizzle != CU_TENSOR_MAP_SWIZZLE_128B) {
        return CUDA_ERROR_NOT_SUPPORTED;
    }
    const TensorMapFields fields{TensorMapFields::valid,
                                 static_cast<const unsigned char*>(address),
                                 {sizes[0], sizes[1], sizes[2]},
                                 {longlora::emulator::element_bytes, strides[0], strides[1]},
                                 {box[0], box[1], box[2]}};
    if (!is_legal(fields, steps)) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    if (!is_device_memory(address, bytes_of(fields))) {
        throw Failure("emulator: a tensor map of " + std::to_string(bytes_of(fields)) +
                      " bytes that are not all in one allocation of the GPU");
    }
    *map = {};
    std::memcpy(map, &fields, sizeof fields);
    return CUDA_SUCCESS;
}
