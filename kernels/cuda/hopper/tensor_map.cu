#include <cstring>

#include "kernels/cuda/hopper/driver_library.hpp"
#include "kernels/cuda/hopper/tensor_map.hpp"

namespace longlora::hopper {

bool make_tensor_map(View<Cuda, const BFloat16, 2> matrix, const Box& box, TensorMap& map) {
    static_assert(sizeof(TensorMap) == sizeof(CUtensorMap));
    static_assert(alignof(TensorMap) >= alignof(CUtensorMap));
    const Index pitch = matrix.pitch() * Index{sizeof(BFloat16)};
    if (pitch % 16 != 0 || matrix.columns() % block_columns != 0 ||
        reinterpret_cast<std::uintptr_t>(matrix.data()) % 16 != 0 || matrix.rows() == 0) {
        return false;
    }
    const cuuint64_t sizes[3] = {block_columns, static_cast<cuuint64_t>(matrix.rows()),
                                 static_cast<cuuint64_t>(matrix.columns() / block_columns)};
    const cuuint64_t strides[2] = {static_cast<cuuint64_t>(pitch),
                                   block_columns * sizeof(BFloat16)};
    const cuuint32_t box_sizes[3] = {block_columns, static_cast<cuuint32_t>(box.rows),
                                     static_cast<cuuint32_t>(box.blocks)};
    const cuuint32_t steps[3] = {1, 1, 1};
    CUtensorMap encoded;
    const CUresult status = cuTensorMapEncodeTiled(
        &encoded, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<BFloat16*>(matrix.data()), sizes,
        strides, box_sizes, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
        CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (status != CUDA_SUCCESS) {
        return false;
    }
    std::memcpy(&map, &encoded, sizeof map);
    return true;
}

}  // namespace longlora::hopper
