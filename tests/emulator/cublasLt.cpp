#include "cublasLt.h"

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "core/bfloat16.hpp"
#include "cublasLt_state.hpp"
#include "emulator.hpp"
#include "late_copies.hpp"
#include "memory.hpp"

struct cublasLtContext {};

namespace longlora::emulator {

namespace {

struct Matmul {
    Description description;
    Layout a, b, c, d;

    std::uint64_t m() const { return d.rows; }
    std::uint64_t n() const { return d.columns; }
    std::uint64_t k() const { return is_transposed(0) ? a.rows : a.columns; }
    bool is_transposed(int operand) const { return description.operations[operand] != CUBLAS_OP_N; }
};

bool is_shape(const Layout& layout, std::uint64_t rows, std::uint64_t columns, bool is_transposed) {
    return layout.rows == (is_transposed ? columns : rows) &&
           layout.columns == (is_transposed ? rows : columns);
}

cublasStatus_t check(const Matmul& matmul) {
    for (const Layout* layout : {&matmul.a, &matmul.b, &matmul.c, &matmul.d}) {
        if (layout->order != CUBLASLT_ORDER_COL || layout->batch_count != 1) {
            return CUBLAS_STATUS_NOT_SUPPORTED;
        }
        if (layout->ld < static_cast<std::int64_t>(layout->rows)) {
            fail("cublasLt: columns of " + std::to_string(layout->rows) + " elements lie " +
                 std::to_string(layout->ld) + " apart");
        }
    }
    const Description& description = matmul.description;
    const bool is_float_arithmetic = description.compute == CUBLAS_COMPUTE_32F ||
                                     description.compute == CUBLAS_COMPUTE_32F_PEDANTIC ||
                                     description.compute == CUBLAS_COMPUTE_32F_FAST_16BF ||
                                     description.compute == CUBLAS_COMPUTE_32F_FAST_TF32;
    const cudaDataType_t in = matmul.a.type;
    const cudaDataType_t out = matmul.d.type;
    const bool are_types_known = in == matmul.b.type && out == matmul.c.type &&
                                 (in == CUDA_R_16BF ? out == CUDA_R_16BF || out == CUDA_R_32F
                                                    : in == CUDA_R_32F && out == CUDA_R_32F);
    if (!is_float_arithmetic || description.scale != CUDA_R_32F || !are_types_known ||
        description.pointer_mode != CUBLASLT_POINTER_MODE_HOST ||
        description.epilogue != CUBLASLT_EPILOGUE_DEFAULT || matmul.is_transposed(2)) {
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    const auto m = matmul.m();
    const auto n = matmul.n();
    const auto k = matmul.k();
    const bool is_product =
        m > 0 && n > 0 && k > 0 && is_shape(matmul.a, m, k, matmul.is_transposed(0)) &&
        is_shape(matmul.b, k, n, matmul.is_transposed(1)) && is_shape(matmul.c, m, n, false);
    return is_product ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

// ---- the product ----

float read(const void* matrix, cudaDataType_t type, std::uint64_t i) {
    return type == CUDA_R_16BF ? to_float(static_cast<const BFloat16*>(matrix)[i])
                               : static_cast<const float*>(matrix)[i];
}
void write(void* matrix, cudaDataType_t type, std::uint64_t i, float x) {
    if (type == CUDA_R_16BF) {
        static_cast<BFloat16*>(matrix)[i] = to_bfloat16(x);
    } else {
        static_cast<float*>(matrix)[i] = x;
    }
}

// op(matrix), its columns one after another
std::vector<float> unpacked(const void* matrix, const Layout& layout, bool is_transposed) {
    std::vector<float> result;
    result.reserve(layout.rows * layout.columns);
    const auto ld = static_cast<std::uint64_t>(layout.ld);
    const auto rows = is_transposed ? layout.columns : layout.rows;
    const auto columns = is_transposed ? layout.rows : layout.columns;
    for (std::uint64_t column = 0; column < columns; ++column) {
        for (std::uint64_t row = 0; row < rows; ++row) {
            const auto at = is_transposed ? column + row * ld : row + column * ld;
            result.push_back(read(matrix, layout.type, at));
        }
    }
    return result;
}

struct Operands {
    const void* a;
    const void* b;
    const void* c;
    void* d;
    float alpha;
    float beta;
};

void multiply(const Matmul& matmul, const Operands& operands) {
    const auto m = matmul.m();
    const auto k = matmul.k();
    const std::vector<float> a = unpacked(operands.a, matmul.a, matmul.is_transposed(0));
    const std::vector<float> b = unpacked(operands.b, matmul.b, matmul.is_transposed(1));
    std::vector<double> sums(m);
    for (std::uint64_t column = 0; column < matmul.n(); ++column) {
        std::fill(sums.begin(), sums.end(), 0.0);
        for (std::uint64_t i = 0; i < k; ++i) {
            const double factor = b[column * k + i];
            const float* const from = a.data() + i * m;
            for (std::uint64_t row = 0; row < m; ++row) {
                sums[row] += from[row] * factor;
            }
        }
        for (std::uint64_t row = 0; row < m; ++row) {
            double result = operands.alpha * sums[row];
            if (operands.beta != 0) {  // else c may hold anything
                const auto at = row + column * static_cast<std::uint64_t>(matmul.c.ld);
                result += double{operands.beta} * read(operands.c, matmul.c.type, at);
            }
            write(operands.d, matmul.d.type, row + column * static_cast<std::uint64_t>(matmul.d.ld),
                  static_cast<float>(result));
        }
    }
}

void check_memory(const char* name, const void* matrix, const Layout& layout,
                  std::uint32_t alignment) {
    const std::size_t element = layout.type == CUDA_R_16BF ? sizeof(BFloat16) : sizeof(float);
    const auto elements =
        (layout.columns - 1) * static_cast<std::uint64_t>(layout.ld) + layout.rows;
    if (!is_device_memory(matrix, elements * element)) {
        fail(std::string("cublasLt: ") + name + " is not in one allocation of the GPU's memory");
    }
    if (reinterpret_cast<std::uintptr_t>(matrix) % std::max<std::size_t>(alignment, element) != 0) {
        fail(std::string("cublasLt: the algorithm was chosen for ") + name +
             " aligned to a multiple of " + std::to_string(alignment) +
             " bytes (CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT)");
    }
}

Algorithm algorithm_for(const Matmul& matmul, const Preference& preference) {
    constexpr std::uint64_t most_workspace = 4096;  // used only to be spoilt
    Algorithm algorithm{};
    algorithm.workspace_bytes = std::min(preference.workspace_bytes, most_workspace);
    std::copy(std::begin(preference.alignments), std::end(preference.alignments),
              algorithm.alignments);
    algorithm.types[0] = matmul.a.type;
    algorithm.types[1] = matmul.b.type;
    algorithm.types[2] = matmul.d.type;
    std::copy_n(matmul.description.operations, 2, algorithm.operations);
    return algorithm;
}

// An algorithm is for types and transpositions, not for sizes.
bool is_for(const Algorithm& algorithm, const Matmul& matmul) {
    const Algorithm same = algorithm_for(matmul, {});
    return std::equal(std::begin(same.types), std::end(same.types), algorithm.types) &&
           std::equal(std::begin(same.operations), std::end(same.operations), algorithm.operations);
}

Matmul matmul_of(const cublasLtMatmulDescOpaque_t& operation,
                 const std::array<const cublasLtMatrixLayoutOpaque_t*, 4>& layouts) {
    return {state_of<Description>(operation), state_of<Layout>(*layouts[0]),
            state_of<Layout>(*layouts[1]), state_of<Layout>(*layouts[2]),
            state_of<Layout>(*layouts[3])};
}

void check_operands(const Matmul& matmul, const Operands& operands, const Algorithm& algorithm) {
    check_memory("a", operands.a, matmul.a, algorithm.alignments[0]);
    check_memory("b", operands.b, matmul.b, algorithm.alignments[1]);
    if (operands.beta != 0) {
        check_memory("c", operands.c, matmul.c, algorithm.alignments[2]);
    }
    check_memory("d", operands.d, matmul.d, algorithm.alignments[3]);
    if (operands.d == operands.a || operands.d == operands.b) {
        fail("cublasLt: the result overwrites an operand");
    }
    if (operands.d == operands.c && matmul.c.ld != matmul.d.ld) {
        fail("cublasLt: c and d are in the same memory, but not in the same places");
    }
}

}  // namespace

}  // namespace longlora::emulator

namespace emulator = longlora::emulator;

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
    *handle = new cublasLtContext;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}
std::size_t cublasLtGetVersion() { return 130000; }

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle,
                                              cublasLtMatmulDesc_t operation,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int requested,
                                              cublasLtMatmulHeuristicResult_t results[],
                                              int* returned) {
    *returned = 0;
    if (handle == nullptr || requested < 1) {
        return handle == nullptr ? CUBLAS_STATUS_NOT_INITIALIZED : CUBLAS_STATUS_INVALID_VALUE;
    }
    const auto matmul = emulator::matmul_of(*operation, {a, b, c, d});
    if (const cublasStatus_t status = check(matmul); status != CUBLAS_STATUS_SUCCESS) {
        return status;
    }
    const auto algorithm =
        emulator::algorithm_for(matmul, emulator::state_of<emulator::Preference>(*preference));
    results[0] = {};
    results[0].workspaceSize = algorithm.workspace_bytes;
    results[0].state = emulator::keep(&results[0].algo, algorithm);
    results[0].wavesCount = 1;
    *returned = 1;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t* algorithm,
                                                    cublasLtMatmulAlgoConfigAttributes_t attribute,
                                                    void* value, std::size_t bytes,
                                                    std::size_t* written) {
    const std::uint32_t result = attribute == CUBLASLT_ALGO_CONFIG_SPLITK_NUM ? 1 : 0;
    if (algorithm == nullptr || bytes < sizeof result) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    std::memcpy(value, &result, sizeof result);
    if (written != nullptr) {
        *written = sizeof result;
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation,
                              const void* alpha, const void* a, cublasLtMatrixLayout_t a_layout,
                              const void* b, cublasLtMatrixLayout_t b_layout, const void* beta,
                              const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t* algorithm, void* workspace,
                              std::size_t workspace_bytes, cudaStream_t stream) {
    emulator::finish_copies(stream);
    if (handle == nullptr) {
        return CUBLAS_STATUS_NOT_INITIALIZED;
    }
    const auto matmul = emulator::matmul_of(*operation, {a_layout, b_layout, c_layout, d_layout});
    if (const cublasStatus_t status = check(matmul); status != CUBLAS_STATUS_SUCCESS) {
        return status;
    }
    const auto choice = algorithm == nullptr ? emulator::algorithm_for(matmul, {})
                                             : emulator::state_of<emulator::Algorithm>(*algorithm);
    if (!is_for(choice, matmul) || choice.workspace_bytes > workspace_bytes) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    const emulator::Operands operands{
        a, b, c, d, *static_cast<const float*>(alpha), *static_cast<const float*>(beta)};
    check_operands(matmul, operands, choice);
    if (choice.workspace_bytes > 0) {
        cudaMemset(workspace, 0xFF, choice.workspace_bytes);
    }
    multiply(matmul, operands);
    return CUBLAS_STATUS_SUCCESS;
}
