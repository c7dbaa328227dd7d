#pragma once

#include <cstring>
#include <type_traits>

#include "cublasLt.h"

// What the opaque structures of cublasLt.h hold.
namespace longlora::emulator {

struct Layout {
    cudaDataType_t type;
    std::int32_t order;
    std::uint64_t rows;
    std::uint64_t columns;
    std::int64_t ld;
    std::int32_t batch_count;
};
struct Description {
    cublasComputeType_t compute;
    cudaDataType_t scale;
    std::int32_t pointer_mode;
    cublasOperation_t operations[3];  // of a, b, c
    std::uint32_t epilogue;
    std::int32_t multiprocessors;
};
struct Preference {
    std::uint64_t workspace_bytes;
    std::uint64_t implementations;
    std::uint32_t search_mode;
    std::uint32_t reduction_schemes;
    std::uint32_t alignments[4];  // of a, b, c, d, that all calls keep to
    float waves;
};
struct Algorithm {
    std::uint64_t workspace_bytes;
    std::uint32_t alignments[4];
    cudaDataType_t types[3];  // of a, b, d
    cublasOperation_t operations[2];
};

template <class State, class Opaque>
State state_of(const Opaque& opaque) {
    static_assert(sizeof(State) <= sizeof opaque.data && std::is_trivially_copyable_v<State>);
    State state;
    std::memcpy(&state, opaque.data, sizeof state);
    return state;
}
template <class State, class Opaque>
cublasStatus_t keep(Opaque* opaque, const State& state) {
    if (opaque == nullptr) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    std::memcpy(opaque->data, &state, sizeof state);
    return CUBLAS_STATUS_SUCCESS;
}

}  // namespace longlora::emulator
