#include <array>

#include "cublasLt_state.hpp"

// Descriptors: made, changed and taken apart. Only what Layout, Description and Preference hold can
// be set.
namespace longlora::emulator {

namespace {

template <class T>
cublasStatus_t set(T& field, const void* value, std::size_t bytes) {
    if (value == nullptr || bytes != sizeof field) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    std::memcpy(&field, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t set(Layout& layout, cublasLtMatrixLayoutAttribute_t attribute, const void* value,
                   std::size_t bytes) {
    switch (attribute) {
        case CUBLASLT_MATRIX_LAYOUT_TYPE:
            return set(layout.type, value, bytes);
        case CUBLASLT_MATRIX_LAYOUT_ORDER:
            return set(layout.order, value, bytes);
        case CUBLASLT_MATRIX_LAYOUT_ROWS:
            return set(layout.rows, value, bytes);
        case CUBLASLT_MATRIX_LAYOUT_COLS:
            return set(layout.columns, value, bytes);
        case CUBLASLT_MATRIX_LAYOUT_LD:
            return set(layout.ld, value, bytes);
        case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT:
            return set(layout.batch_count, value, bytes);
    }
    return CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t set(Description& description, cublasLtMatmulDescAttributes_t attribute,
                   const void* value, std::size_t bytes) {
    switch (attribute) {
        case CUBLASLT_MATMUL_DESC_COMPUTE_TYPE:
            return set(description.compute, value, bytes);
        case CUBLASLT_MATMUL_DESC_SCALE_TYPE:
            return set(description.scale, value, bytes);
        case CUBLASLT_MATMUL_DESC_POINTER_MODE:
            return set(description.pointer_mode, value, bytes);
        case CUBLASLT_MATMUL_DESC_TRANSA:
        case CUBLASLT_MATMUL_DESC_TRANSB:
        case CUBLASLT_MATMUL_DESC_TRANSC:
            return set(description.operations[attribute - CUBLASLT_MATMUL_DESC_TRANSA], value,
                       bytes);
        case CUBLASLT_MATMUL_DESC_EPILOGUE:
            return set(description.epilogue, value, bytes);
        case CUBLASLT_MATMUL_DESC_SM_COUNT_TARGET:
            return set(description.multiprocessors, value, bytes);
    }
    return CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t set(Preference& preference, cublasLtMatmulPreferenceAttributes_t attribute,
                   const void* value, std::size_t bytes) {
    switch (attribute) {
        case CUBLASLT_MATMUL_PREF_SEARCH_MODE:
            return set(preference.search_mode, value, bytes);
        case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
            return set(preference.workspace_bytes, value, bytes);
        case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
            return set(preference.reduction_schemes, value, bytes);
        case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
        case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
        case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
        case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
            return set(
                preference.alignments[attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES],
                value, bytes);
        case CUBLASLT_MATMUL_PREF_MAX_WAVES_COUNT:
            return set(preference.waves, value, bytes);
        case CUBLASLT_MATMUL_PREF_IMPL_MASK:
            return set(preference.implementations, value, bytes);
    }
    return CUBLAS_STATUS_NOT_SUPPORTED;
}

template <class State, class Opaque, class Attribute>
cublasStatus_t set_attribute(Opaque* opaque, Attribute attribute, const void* value,
                             std::size_t bytes) {
    if (opaque == nullptr) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    auto state = state_of<State>(*opaque);
    const cublasStatus_t status = set(state, attribute, value, bytes);
    return status == CUBLAS_STATUS_SUCCESS ? keep(opaque, state) : status;
}

constexpr std::uint32_t default_alignment = 256;
constexpr Preference default_preference{
    .workspace_bytes = 0,
    .implementations = ~std::uint64_t{0},
    .search_mode = 0,
    .reduction_schemes = CUBLASLT_REDUCTION_SCHEME_MASK,
    .alignments = {default_alignment, default_alignment, default_alignment, default_alignment},
    .waves = 0};

template <class Opaque>
cublasStatus_t destroy(Opaque* opaque) {
    delete opaque;
    return CUBLAS_STATUS_SUCCESS;
}

struct StatusText {
    cublasStatus_t status;
    const char* name;
    const char* text;
};
constexpr std::array<StatusText, 10> status_texts{{
    {CUBLAS_STATUS_SUCCESS, "CUBLAS_STATUS_SUCCESS", "success"},
    {CUBLAS_STATUS_NOT_INITIALIZED, "CUBLAS_STATUS_NOT_INITIALIZED",
     "the library was not initialized"},
    {CUBLAS_STATUS_ALLOC_FAILED, "CUBLAS_STATUS_ALLOC_FAILED", "the resource allocation failed"},
    {CUBLAS_STATUS_INVALID_VALUE, "CUBLAS_STATUS_INVALID_VALUE",
     "an unsupported value or parameter was passed to the function"},
    {CUBLAS_STATUS_ARCH_MISMATCH, "CUBLAS_STATUS_ARCH_MISMATCH",
     "the function requires a feature absent from the device architecture"},
    {CUBLAS_STATUS_MAPPING_ERROR, "CUBLAS_STATUS_MAPPING_ERROR",
     "an access to GPU memory space failed"},
    {CUBLAS_STATUS_EXECUTION_FAILED, "CUBLAS_STATUS_EXECUTION_FAILED",
     "the GPU program failed to execute"},
    {CUBLAS_STATUS_INTERNAL_ERROR, "CUBLAS_STATUS_INTERNAL_ERROR", "an internal operation failed"},
    {CUBLAS_STATUS_NOT_SUPPORTED, "CUBLAS_STATUS_NOT_SUPPORTED",
     "the functionality requested is not supported"},
    {CUBLAS_STATUS_LICENSE_ERROR, "CUBLAS_STATUS_LICENSE_ERROR",
     "the functionality requested requires some license and an error was detected"},
}};
const StatusText& text_of(cublasStatus_t status) {
    for (const StatusText& text : status_texts) {
        if (text.status == status) {
            return text;
        }
    }
    return status_texts.back();
}

}  // namespace

}  // namespace longlora::emulator

namespace emulator = longlora::emulator;

const char* cublasLtGetStatusName(cublasStatus_t status) { return emulator::text_of(status).name; }
const char* cublasLtGetStatusString(cublasStatus_t status) {
    return emulator::text_of(status).text;
}
const char* cublasGetStatusName(cublasStatus_t status) { return cublasLtGetStatusName(status); }
const char* cublasGetStatusString(cublasStatus_t status) { return cublasLtGetStatusString(status); }

cublasStatus_t cublasLtMatrixLayoutInit(cublasLtMatrixLayout_t layout, cudaDataType type,
                                        std::uint64_t rows, std::uint64_t columns,
                                        std::int64_t ld) {
    return emulator::keep(
        layout, emulator::Layout{type, CUBLASLT_ORDER_COL, rows, columns, ld, /*batch_count=*/1});
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type,
                                          std::uint64_t rows, std::uint64_t columns,
                                          std::int64_t ld) {
    *layout = new cublasLtMatrixLayoutOpaque_t{};
    return cublasLtMatrixLayoutInit(*layout, type, rows, columns, ld);
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
    return emulator::destroy(layout);
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t attribute,
                                                const void* value, std::size_t bytes) {
    return emulator::set_attribute<emulator::Layout>(layout, attribute, value, bytes);
}

cublasStatus_t cublasLtMatmulDescInit(cublasLtMatmulDesc_t operation, cublasComputeType_t compute,
                                      cudaDataType_t scale) {
    return emulator::keep(
        operation, emulator::Description{.compute = compute,
                                         .scale = scale,
                                         .pointer_mode = CUBLASLT_POINTER_MODE_HOST,
                                         .operations = {CUBLAS_OP_N, CUBLAS_OP_N, CUBLAS_OP_N},
                                         .epilogue = CUBLASLT_EPILOGUE_DEFAULT,
                                         .multiprocessors = 0});
}
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* operation,
                                        cublasComputeType_t compute, cudaDataType_t scale) {
    *operation = new cublasLtMatmulDescOpaque_t{};
    return cublasLtMatmulDescInit(*operation, compute, scale);
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t operation) {
    return emulator::destroy(operation);
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t operation,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, std::size_t bytes) {
    return emulator::set_attribute<emulator::Description>(operation, attribute, value, bytes);
}

cublasStatus_t cublasLtMatmulPreferenceInit(cublasLtMatmulPreference_t preference) {
    return emulator::keep(preference, emulator::default_preference);
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
    *preference = new cublasLtMatmulPreferenceOpaque_t{};
    return cublasLtMatmulPreferenceInit(*preference);
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
    return emulator::destroy(preference);
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void* value, std::size_t bytes) {
    return emulator::set_attribute<emulator::Preference>(preference, attribute, value, bytes);
}
