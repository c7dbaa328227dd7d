#pragma once

#include <cublasLt.h>

#include <cstdint>

#include "core/late_library.hpp"

// cuBLASLt is opened at its first use, so that the program starts on machines without it. Within
// namespace longlora the names below stand for the library's functions of the same names: one that
// is missing here fails to link. tests/emulator has a file in the place of this one.
namespace longlora {

inline LateLibrary& cublas_library() {
    // An older library knows all that is asked of it here.
    static LateLibrary library("cuBLAS", {"libcublasLt.so.13", "libcublasLt.so.12"});
    return library;
}

template <class Signature>
using CublasFunction = LateFunction<Signature, cublas_library>;

inline CublasFunction<decltype(::cublasLtGetStatusName)> cublasLtGetStatusName(
    "cublasLtGetStatusName");
inline CublasFunction<decltype(::cublasLtGetStatusString)> cublasLtGetStatusString(
    "cublasLtGetStatusString");
inline CublasFunction<decltype(::cublasLtCreate)> cublasLtCreate("cublasLtCreate");
inline CublasFunction<decltype(::cublasLtMatmulDescSetAttribute)> cublasLtMatmulDescSetAttribute(
    "cublasLtMatmulDescSetAttribute");
inline CublasFunction<decltype(::cublasLtMatmulPreferenceSetAttribute)>
    cublasLtMatmulPreferenceSetAttribute("cublasLtMatmulPreferenceSetAttribute");
inline CublasFunction<decltype(::cublasLtMatmulAlgoGetHeuristic)> cublasLtMatmulAlgoGetHeuristic(
    "cublasLtMatmulAlgoGetHeuristic");
inline CublasFunction<decltype(::cublasLtMatmul)> cublasLtMatmul("cublasLtMatmul");

// These are inline functions of the library's header, around ones that end in _internal.
inline CublasFunction<decltype(::cublasLtMatrixLayoutInit_internal)>
    cublasLtMatrixLayoutInit_internal("cublasLtMatrixLayoutInit_internal");
inline CublasFunction<decltype(::cublasLtMatmulDescInit_internal)> cublasLtMatmulDescInit_internal(
    "cublasLtMatmulDescInit_internal");
inline CublasFunction<decltype(::cublasLtMatmulPreferenceInit_internal)>
    cublasLtMatmulPreferenceInit_internal("cublasLtMatmulPreferenceInit_internal");

inline constexpr auto cublasLtMatrixLayoutInit = [](cublasLtMatrixLayoutOpaque_t* layout,
                                                    cudaDataType type, std::uint64_t rows,
                                                    std::uint64_t columns, std::int64_t leading) {
    return cublasLtMatrixLayoutInit_internal(layout, sizeof *layout, type, rows, columns, leading);
};
inline constexpr auto cublasLtMatmulDescInit =
    [](cublasLtMatmulDescOpaque_t* operation, cublasComputeType_t compute, cudaDataType_t scale) {
        return cublasLtMatmulDescInit_internal(operation, sizeof *operation, compute, scale);
    };
inline constexpr auto cublasLtMatmulPreferenceInit =
    [](cublasLtMatmulPreferenceOpaque_t* preference) {
        return cublasLtMatmulPreferenceInit_internal(preference, sizeof *preference);
    };

}  // namespace longlora
