#include "kernels/matmul.hpp"

#include <algorithm>

#include "kernels/cpu/packed_matmul.hpp"
#include "reference/compare.hpp"
#include "reference/matmul.hpp"

using namespace longlora;
using namespace longlora::reference;

namespace {

struct Factors {
    float alpha;
    float beta;
};

struct Product {
    Product(const MatmulShape& s, Index gap)
        : shape(s),
          a(Matrix::random(80, s.a_is_transposed ? s.depth : s.rows,
                           s.a_is_transposed ? s.rows : s.depth, gap)),
          b(Matrix::random(81, s.b_is_transposed ? s.columns : s.depth,
                           s.b_is_transposed ? s.depth : s.columns, 2 * gap)) {}

    Matrix run(const Factors& factors, int threads, Index gap) const {
        Matrix out = Matrix::random(82, shape.rows, shape.columns, gap);
        matmul(Stream<Cpu>(threads), {.a = {a.view(), shape.a_is_transposed},
                                      .b = {b.view(), shape.b_is_transposed},
                                      .out = out.view(),
                                      .alpha = factors.alpha,
                                      .beta = factors.beta});
        return out;
    }

    template <class S>
    std::vector<S> expected(const Factors& factors) const {
        const Matrix out = Matrix::random(82, shape.rows, shape.columns);
        return matmul<S>(shape, a.values<S>(), b.values<S>(), S(factors.alpha), S(factors.beta),
                         out.values<S>());
    }

    MatmulShape shape;
    Matrix a;
    Matrix b;
};

}  // namespace

BOOST_AUTO_TEST_CASE(agrees_with_the_formula) {
    for (const Index rows : {Index{1}, Index{7}, Index{33}}) {
        for (const Index columns : {Index{1}, Index{8}, Index{50}}) {
            for (const Index depth : {Index{1}, Index{9}, Index{64}}) {
                for (const int turns : {0, 1, 2, 3}) {
                    const Product product({rows, columns, depth, turns % 2 == 1, turns >= 2}, 3);
                    const Factors factors{1.5F, turns == 0 ? 0.0F : 0.75F};
                    const Matrix out = product.run(factors, 2, 5);
                    const auto expected = product.expected<double>(factors);
                    const auto plain = product.expected<float>(factors);
                    require_close("out", out.values(), expected, earned_tolerance(plain, expected));
                    BOOST_TEST(out.gaps_are_intact());
                }
            }
        }
    }
}

// Large enough for several blocks of rows and of columns; the blocks do not depend on the threads.
BOOST_AUTO_TEST_CASE(blocks_cover_the_product_and_threads_change_no_bit) {
    const std::vector<MatmulShape> shapes = {{600, 70, 90, false, true},
                                             {8, 700, 900, true, false},
                                             {130, 1100, 40, false, false},
                                             {2050, 33, 50, false, true}};
    for (const MatmulShape& shape : shapes) {
        const Product product(shape, 1);
        const Matrix one = product.run({1, 1}, 1, 2);
        const auto expected = product.expected<double>({1, 1});
        require_close("out", one.values(), expected,
                      earned_tolerance(product.expected<float>({1, 1}), expected));
        BOOST_TEST((one.values() == product.run({1, 1}, 3, 2).values()));
        BOOST_TEST(one.gaps_are_intact());
    }
}

// What train.deterministic = layout rests on: a row of the result has the same bits in whatever range
// of rows it is computed. A depth of several blocks, columns that fill no panel, few and many rows.
BOOST_AUTO_TEST_CASE(bits_of_a_row_do_not_depend_on_its_neighbours,
                     *boost::unit_test::precondition([](boost::unit_test::test_unit_id) {
                         return boost::test_tools::assertion_result(packed_matmul_is_fast());
                     })) {
    for (const bool b_is_transposed : {false, true}) {
        for (const Index columns : {Index{8}, Index{50}, Index{2100}}) {
            const Product product({301, columns, 800, false, b_is_transposed}, 1);
            const auto whole = product.run({0.5F, 1}, 2, 0).values();
            for (const Range rows : {Range{0, 1}, Range{3, 20}, Range{17, 52}, Range{100, 301}}) {
                Matrix out = Matrix::random(82, 301, columns, 0);
                matmul(Stream<Cpu>(3), {.a = product.a.view().rows(rows),
                                        .b = {product.b.view(), b_is_transposed},
                                        .out = out.view().rows(rows),
                                        .alpha = 0.5F,
                                        .beta = 1});
                const auto values = out.values();
                BOOST_TEST(std::equal(whole.begin() + rows.begin * columns,
                                      whole.begin() + rows.end * columns,
                                      values.begin() + rows.begin * columns));
            }
        }
    }
}

// Panels of 2,048 columns or fewer, 8 MiB of them or fewer.
BOOST_AUTO_TEST_CASE(the_memory_of_a_product_is_bounded) {
    if (matmul_rows_are_independent()) {
        BOOST_TEST(cpu_matmul_bytes(256, 8000) == 2048U * 256 * 4);
        BOOST_TEST(cpu_matmul_bytes(8000, 256) == 256U * 8000 * 4);
        BOOST_TEST(cpu_matmul_bytes(100, 10) == 16U * 100 * 4);
        BOOST_TEST(cpu_matmul_bytes(32000, 4096) == 2048U * 2 * 384 * 4);  // two blocks of depth
    } else {
        BOOST_TEST(cpu_matmul_bytes(256, 8000) == 0U);
    }
}

BOOST_AUTO_TEST_CASE(empty_products) {
    const Product no_depth({3, 4, 0, false, false}, 0);
    BOOST_TEST((no_depth.run({1, 0}, 1, 1).values() == std::vector<double>(12, 0.0)));
    const Matrix kept = Matrix::random(82, 3, 4);
    BOOST_TEST((no_depth.run({1, 1}, 1, 1).values() == kept.values()));
    Product({0, 4, 5, false, true}, 0).run({1, 0}, 1, 0);
    Product({3, 0, 5, true, false}, 0).run({1, 0}, 1, 0);

    // beta = 0 overwrites, whatever was there.
    const Product product({3, 4, 5, false, false}, 0);
    Matrix out(3, 4);
    out.view()(1, 1) = std::numeric_limits<float>::quiet_NaN();
    matmul(Stream<Cpu>(), {.a = product.a.view(), .b = product.b.view(), .out = out.view()});
    require_close("out", out.values(), product.expected<double>({1, 0}), 1e-5);
}
