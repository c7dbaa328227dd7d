#include <cublasLt.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "core/bfloat16.hpp"
#include "core/random.hpp"
#include "emulator/device_array.cuh"

// Products of integers, so that every order of additions gives the same.

using namespace longlora;

namespace {

void check(cublasStatus_t status) {
    BOOST_REQUIRE_MESSAGE(status == CUBLAS_STATUS_SUCCESS, cublasLtGetStatusString(status));
}

template <class T>
constexpr cudaDataType_t type_of = std::is_same_v<T, float> ? CUDA_R_32F : CUDA_R_16BF;

// Columns of `rows` elements, `ld` apart; between them lie NaNs.
template <class T>
struct Matrix {
    std::size_t rows;
    std::size_t columns;
    std::size_t ld;
    std::vector<T> elements;

    Matrix(std::size_t m, std::size_t n, std::uint64_t key)
        : rows(m), columns(n), ld(m + 8), elements(ld * n, nan()) {
        for (std::size_t i = 0; i < m * n; ++i) {
            const double x = std::floor(9 * random_uniform(key, i)) - 4;
            elements[i % m + i / m * ld] = to_element<T>(static_cast<float>(x));
        }
    }
    static T nan() { return to_element<T>(std::numeric_limits<float>::quiet_NaN()); }
    float at(std::size_t row, std::size_t column) const {
        return to_float(elements[row + column * ld]);
    }
    cublasLtMatrixLayoutOpaque_t layout() const {
        cublasLtMatrixLayoutOpaque_t result;
        check(cublasLtMatrixLayoutInit(&result, type_of<T>, rows, columns,
                                       static_cast<std::int64_t>(ld)));
        return result;
    }
};

struct Product {
    std::size_t m;
    std::size_t n;
    std::size_t k;
    bool a_is_transposed;
    bool b_is_transposed;
    float alpha;
    float beta;
};

class Library {
public:
    Library() { check(cublasLtCreate(&handle_)); }
    ~Library() { cublasLtDestroy(handle_); }
    Library(const Library&) = delete;
    Library& operator=(const Library&) = delete;

    // In place of out's elements.
    template <class In, class Out>
    void multiply(const Product& p, const Matrix<In>& a, const Matrix<In>& b, Matrix<Out>& out,
                  std::uint32_t alignment = 16, std::size_t shift = 0) const {
        const Array<In> a_memory(a.elements);
        const Array<In> b_memory(b.elements);
        const Array<Out> out_memory(out.elements);
        auto a_layout = a.layout();
        auto b_layout = b.layout();
        auto out_layout = out.layout();
        cublasLtMatmulDescOpaque_t operation;
        check(cublasLtMatmulDescInit(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F));
        transpose(operation, CUBLASLT_MATMUL_DESC_TRANSA, p.a_is_transposed);
        transpose(operation, CUBLASLT_MATMUL_DESC_TRANSB, p.b_is_transposed);
        cublasLtMatmulPreferenceOpaque_t preference;
        check(cublasLtMatmulPreferenceInit(&preference));
        set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_bytes);
        set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment);
        set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment);
        set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment);
        set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment);
        cublasLtMatmulHeuristicResult_t choice{};
        int found = 0;
        check(cublasLtMatmulAlgoGetHeuristic(handle_, &operation, &a_layout, &b_layout, &out_layout,
                                             &out_layout, &preference, 1, &choice, &found));
        BOOST_REQUIRE_EQUAL(found, 1);
        const Array<char> workspace(workspace_bytes);
        check(cublasLtMatmul(handle_, &operation, &p.alpha, a_memory.data() + shift, &a_layout,
                             b_memory.data(), &b_layout, &p.beta, out_memory.data(), &out_layout,
                             out_memory.data(), &out_layout, &choice.algo, workspace.data(),
                             workspace_bytes, nullptr));
        out.elements = out_memory.values();
    }

private:
    static constexpr std::uint64_t workspace_bytes = 1U << 20U;

    static void transpose(cublasLtMatmulDescOpaque_t& operation,
                          cublasLtMatmulDescAttributes_t which, bool is_transposed) {
        const cublasOperation_t value = is_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
        check(cublasLtMatmulDescSetAttribute(&operation, which, &value, sizeof value));
    }
    template <class T>
    static void set(cublasLtMatmulPreferenceOpaque_t& preference,
                    cublasLtMatmulPreferenceAttributes_t which, const T& value) {
        check(cublasLtMatmulPreferenceSetAttribute(&preference, which, &value, sizeof value));
    }

    cublasLtHandle_t handle_ = nullptr;
};

template <class In, class Out>
void compare(const Library& library, const Product& p) {
    const Matrix<In> a(p.a_is_transposed ? p.k : p.m, p.a_is_transposed ? p.m : p.k, 1);
    const Matrix<In> b(p.b_is_transposed ? p.n : p.k, p.b_is_transposed ? p.k : p.n, 2);
    Matrix<Out> out(p.m, p.n, 3);
    Matrix<Out> expected = out;
    for (std::size_t row = 0; row < p.m; ++row) {
        for (std::size_t column = 0; column < p.n; ++column) {
            float sum = 0;
            for (std::size_t i = 0; i < p.k; ++i) {
                sum += (p.a_is_transposed ? a.at(i, row) : a.at(row, i)) *
                       (p.b_is_transposed ? b.at(column, i) : b.at(i, column));
            }
            auto& element = expected.elements[row + column * expected.ld];
            element = to_element<Out>(p.alpha * sum + p.beta * to_float(element));
            if (p.beta == 0) {  // whatever was there
                out.elements[row + column * out.ld] = Matrix<Out>::nan();
            }
        }
    }
    library.multiply(p, a, b, out);
    for (std::size_t row = 0; row < p.m; ++row) {
        for (std::size_t column = 0; column < p.n; ++column) {
            BOOST_TEST(out.at(row, column) == expected.at(row, column));
        }
    }
    for (std::size_t i = 0; i < out.elements.size(); ++i) {  // what lies between columns is kept
        if (i % out.ld >= out.rows) {
            BOOST_TEST(std::isnan(to_float(out.elements[i])));
        }
    }
}

}  // namespace

BOOST_AUTO_TEST_SUITE(cublasLt_test)

BOOST_AUTO_TEST_CASE(products) {
    const Library library;
    for (const bool a : {false, true}) {
        for (const bool b : {false, true}) {
            for (const float beta : {0.0F, 1.0F}) {
                const Product product{40, 24, 32, a, b, 2.0F, beta};
                compare<BFloat16, float>(library, product);
                compare<BFloat16, BFloat16>(library, product);
                compare<float, float>(library, product);
            }
        }
    }
    compare<BFloat16, float>(library, {8, 1, 16, true, false, 1.0F, 0.0F});
}

#if LONGLORA_CUDA_EMULATED
BOOST_AUTO_TEST_CASE(operands_that_cannot_be) {
    const Library library;
    const Product product{8, 8, 8, false, false, 1.0F, 0.0F};
    const Matrix<float> a(8, 8, 1);
    Matrix<float> out(8, 8, 2);
    library.multiply(product, a, a, out, 256);
    BOOST_CHECK_THROW(library.multiply(product, a, a, out, 256, 4), emulator::Failure);
    BOOST_CHECK_THROW(library.multiply(product, a, a, out, 16, 32), emulator::Failure);
    Matrix<float> tight(8, 8, 1);
    tight.ld = 7;
    BOOST_CHECK_THROW(library.multiply(product, tight, a, out), emulator::Failure);

    auto layout = a.layout();
    auto narrow = Matrix<float>(8, 4, 1).layout();
    cublasLtMatmulDescOpaque_t operation;
    check(cublasLtMatmulDescInit(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    cublasLtHandle_t handle = nullptr;
    check(cublasLtCreate(&handle));
    const float one = 1;
    const auto status = [&](cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t d) {
        return cublasLtMatmul(handle, &operation, &one, nullptr, &layout, nullptr, b, &one, nullptr,
                              d, nullptr, d, nullptr, nullptr, 0, nullptr);
    };
    BOOST_TEST((status(&narrow, &layout) == CUBLAS_STATUS_INVALID_VALUE));
    auto other_type = Matrix<BFloat16>(8, 8, 1).layout();
    BOOST_TEST((status(&other_type, &layout) == CUBLAS_STATUS_NOT_SUPPORTED));
    BOOST_TEST((status(&layout, &other_type) == CUBLAS_STATUS_NOT_SUPPORTED));
    cublasLtDestroy(handle);
}
#endif

BOOST_AUTO_TEST_SUITE_END()
