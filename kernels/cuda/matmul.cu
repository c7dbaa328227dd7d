#include <algorithm>
#include <cassert>
#include <compare>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>

#include "core/error.hpp"
#include "kernels/cuda/cublas_library.hpp"
#include "kernels/cuda/parts.cuh"
#include "kernels/matmul.hpp"

// Every matrix product on the GPU, by cuBLASLt. It reads by columns what lies here by rows, so each
// matrix is to it the transpose, in the same memory, and the product is the transpose of ours:
//
//     out' = op(b)' op(a)'
namespace longlora {
namespace {

void cublas_check(cublasStatus_t status, const char* what) {
    ensure(status == CUBLAS_STATUS_SUCCESS, std::string("cuBLAS failed to ") + what + ": " +
                                                cublasLtGetStatusString(status) + " (" +
                                                cublasLtGetStatusName(status) + ")");
}

template <class T>
constexpr cudaDataType_t type_of = CUDA_R_32F;
template <>
constexpr cudaDataType_t type_of<BFloat16> = CUDA_R_16BF;

// A matrix as cuBLASLt sees it: our rows are its columns.
struct Layout {
    cudaDataType_t type;
    Index rows;
    Index columns;
    Index leading;            // elements from one of its columns to the next, our pitch
    std::uint32_t alignment;  // bytes; the same for every slice of our rows

    auto operator<=>(const Layout&) const = default;
};

template <class Device, class T>
Layout layout_of(const View<Device, T, 2>& view) {
    using Stored = std::remove_const_t<T>;
    constexpr std::uintptr_t most = 16;  // no algorithm asks for more
    const auto pitch = static_cast<std::uintptr_t>(view.pitch()) * sizeof(T);
    const std::uintptr_t bits = reinterpret_cast<std::uintptr_t>(view.data()) | pitch | most;
    return {.type = type_of<Stored>,
            .rows = view.columns(),
            .columns = view.rows(),
            .leading = std::max(view.pitch(), view.columns()),
            .alignment = static_cast<std::uint32_t>(bits & (~bits + 1))};  // the lowest bit
}

// What an algorithm is chosen by.
struct Product {
    Layout a;
    Layout b;
    Layout out;
    bool a_is_transposed;
    bool b_is_transposed;
    bool is_added;  // beta is not 0

    auto operator<=>(const Product&) const = default;
};

// The algorithm is chosen for this many rows, whatever their number is: the bits of a row, a token's,
// must not depend on how many are multiplied with it. Where a is transposed the rows are not tokens
// but a parameter's, and their number never changes.
Product with_typical_rows(Product product) {
    constexpr Index typical_rows = 4096;
    if (!product.a_is_transposed) {
        product.a.columns = typical_rows;
        product.out.columns = typical_rows;
    }
    return product;
}

cublasLtMatrixLayoutOpaque_t description_of(const Layout& layout) {
    cublasLtMatrixLayoutOpaque_t description{};
    cublas_check(
        cublasLtMatrixLayoutInit(&description, layout.type, static_cast<std::uint64_t>(layout.rows),
                                 static_cast<std::uint64_t>(layout.columns), layout.leading),
        "describe a matrix");
    return description;
}

// A product in cuBLASLt's own terms. It calls b its first operand.
struct Description {
    explicit Description(const Product& product)
        : a(description_of(product.a)),
          b(description_of(product.b)),
          out(description_of(product.out)) {
        cublas_check(cublasLtMatmulDescInit(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F),
                     "describe a product");
        set_transposition(CUBLASLT_MATMUL_DESC_TRANSA, product.b_is_transposed);
        set_transposition(CUBLASLT_MATMUL_DESC_TRANSB, product.a_is_transposed);
    }

    void set_transposition(cublasLtMatmulDescAttributes_t which, bool is_transposed) {
        const cublasOperation_t value = is_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
        cublas_check(cublasLtMatmulDescSetAttribute(&operation, which, &value, sizeof value),
                     "describe a product");
    }

    cublasLtMatmulDescOpaque_t operation{};
    cublasLtMatrixLayoutOpaque_t a;
    cublasLtMatrixLayoutOpaque_t b;
    cublasLtMatrixLayoutOpaque_t out;
};

// What an algorithm must keep to: its workspace, the operands' alignment, and no sum cut into parts
// that are added in an order of their own.
cublasLtMatmulPreferenceOpaque_t preference_for(const Product& product) {
    cublasLtMatmulPreferenceOpaque_t preference{};
    cublas_check(cublasLtMatmulPreferenceInit(&preference), "describe a choice");
    const auto set = [&](cublasLtMatmulPreferenceAttributes_t which, auto value) {
        cublas_check(cublasLtMatmulPreferenceSetAttribute(&preference, which, &value, sizeof value),
                     "describe a choice");
    };
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::uint64_t{CudaStream::workspace_bytes});
    set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, std::uint32_t{CUBLASLT_REDUCTION_SCHEME_NONE});
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, product.b.alignment);
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, product.a.alignment);
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, product.out.alignment);
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, product.out.alignment);
    return preference;
}

// The library's handle and what it has chosen, for the GPU of this process. It is never taken apart:
// at the end of the process CUDA may be gone before it.
class Library {
public:
    static Library& instance() {
        static Library* const library = new Library;
        return *library;
    }

    cublasLtHandle_t handle() const { return handle_; }

    // Chosen at the first call for such a product. CUBLAS_STATUS_NOT_SUPPORTED: there is none.
    cublasStatus_t find(const Product& product, cublasLtMatmulAlgo_t& algorithm) {
        const std::scoped_lock lock(mutex_);
        const auto known = algorithms_.find(product);
        if (known != algorithms_.end()) {
            algorithm = known->second;
            return CUBLAS_STATUS_SUCCESS;
        }
        Description description(product);
        auto preference = preference_for(product);
        cublasLtMatmulHeuristicResult_t result{};
        int found = 0;
        cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
            handle_, &description.operation, &description.b, &description.a, &description.out,
            &description.out, &preference, 1, &result, &found);
        if (status == CUBLAS_STATUS_SUCCESS) {
            status = found == 0 ? CUBLAS_STATUS_NOT_SUPPORTED : result.state;
        }
        if (status == CUBLAS_STATUS_SUCCESS) {
            algorithm = result.algo;
            algorithms_.emplace(product, result.algo);
        }
        return status;
    }

private:
    Library() { cublas_check(cublasLtCreate(&handle_), "start"); }

    cublasLtHandle_t handle_ = nullptr;
    std::mutex mutex_;
    std::map<Product, cublasLtMatmulAlgo_t> algorithms_;
};

struct Operands {
    const void* a;
    const void* b;
    void* out;
    float alpha;
    float beta;
};

// By the algorithm that is chosen for `choice`.
cublasStatus_t start(const CudaStream& stream, const Product& product, const Product& choice,
                     const Operands& operands) {
    Library& library = Library::instance();
    cublasLtMatmulAlgo_t algorithm{};
    const cublasStatus_t status = library.find(choice, algorithm);
    if (status != CUBLAS_STATUS_SUCCESS) {
        return status;
    }
    Description description(product);
    return cublasLtMatmul(library.handle(), &description.operation, &operands.alpha, operands.b,
                          &description.b, operands.a, &description.a, &operands.beta, operands.out,
                          &description.out, operands.out, &description.out, &algorithm,
                          stream.workspace(), CudaStream::workspace_bytes, stream.handle());
}

// out = beta out; beta = 0 overwrites whatever was there, NaN too.
template <class Device, class T>
__global__ void scale_kernel(View<Device, T, 2> out, float beta) {
    for_parts<1, true>(out.rows(), out.columns(), [&](Index t, const auto& part) {
        T* const at = out.row(t) + part.first;
        store(at, beta == 0 ? 0.0F : beta * load(at));
    });
}

template <class S, class Out>
void multiply(const Stream<CudaDevice<S>>& stream, const Matmul<CudaDevice<S>, S, S, Out>& op) {
    assert(op.a.rows() == op.out.rows() && op.b.columns() == op.out.columns());
    assert(op.a.columns() == op.b.rows());
    if (op.out.rows() == 0 || op.out.columns() == 0) {
        return;
    }
    if (op.a.columns() == 0) {
        launch(stream, scale_kernel<CudaDevice<S>, Out>,
               grid_for_parts(op.out.rows(), op.out.columns(), 1), op.out, op.beta);
        return;
    }
    const Product product{.a = layout_of(op.a.view),
                          .b = layout_of(op.b.view),
                          .out = layout_of(op.out),
                          .a_is_transposed = op.a.is_transposed,
                          .b_is_transposed = op.b.is_transposed,
                          .is_added = op.beta != 0};
    const Operands operands{op.a.view.data(), op.b.view.data(), op.out.data(), op.alpha, op.beta};
    cublasStatus_t status = start(stream, product, with_typical_rows(product), operands);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE) {
        status = start(stream, product, product, operands);  // too few rows for that algorithm
    }
    cublas_check(status, "multiply matrices");
}

}  // namespace

void prepare_cuda_matmul() { Library::instance(); }

template <class S>
void matmul(const Stream<CudaDevice<S>>& stream, const Matmul<CudaDevice<S>, S, S, float>& op) {
    multiply(stream, op);
}

template <class S>
void matmul(const Stream<CudaDevice<S>>& stream, const Matmul<CudaDevice<S>, S, S, BFloat16>& op) {
    multiply(stream, op);
}

// There is no product of floats that cuBLASLt writes as bfloat16.
template void matmul(const Stream<Cuda>&, const Matmul<Cuda, BFloat16, BFloat16, float>&);
template void matmul(const Stream<Cuda>&, const Matmul<Cuda, BFloat16, BFloat16, BFloat16>&);
template void matmul(const Stream<CudaFloat>&, const Matmul<CudaFloat, float, float, float>&);

}  // namespace longlora
