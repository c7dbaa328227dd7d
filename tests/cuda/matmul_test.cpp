#include "kernels/matmul.hpp"

#include "cuda/device_matrix.hpp"

using namespace longlora;
using namespace longlora::cuda_test;

namespace {

struct Sizes {
    Index rows;
    Index columns;
    Index depth;
};
struct Factors {
    float alpha;
    float beta;
};

template <class T>
constexpr bool is_float = std::is_same_v<T, float>;

// a and b in a type, and where they lie.
template <class S>
struct Product {
    Product(const Sizes& sizes, bool a_turned, bool b_turned)
        : a(operand(80, sizes.rows, sizes.depth, a_turned)),
          b(operand(81, sizes.depth, sizes.columns, b_turned)),
          a_is_transposed(a_turned),
          b_is_transposed(b_turned) {}

    static Matrix operand(std::uint64_t key, Index rows, Index columns, bool is_turned) {
        return random_matrix<S>(key, is_turned ? Shape{columns, rows} : Shape{rows, columns});
    }

    void run(const Stream<Cpu>& stream, View<Cpu, float, 2> out, const Factors& factors) const {
        matmul(stream, {.a = {a.view(), a_is_transposed},
                        .b = {b.view(), b_is_transposed},
                        .out = out,
                        .alpha = factors.alpha,
                        .beta = factors.beta});
    }
    // Rows of op(a) and of out, all of them where `rows` says so.
    template <class Device, class Out>
    void run(const Stream<Device>& stream, View<Device, Out, 2> out, const Factors& factors,
             Place place, Range rows) const {
        const DeviceMatrix<Device, S> left(stream, a, place);
        const DeviceMatrix<Device, S> right(stream, b, place);
        const auto some = a_is_transposed ? left.view().columns(rows) : left.view().rows(rows);
        matmul(stream, Matmul<Device, S, S, Out>{.a = {some, a_is_transposed},
                                                 .b = {right.view(), b_is_transposed},
                                                 .out = out.rows(rows),
                                                 .alpha = factors.alpha,
                                                 .beta = factors.beta});
    }

    Matrix a;
    Matrix b;
    bool a_is_transposed;
    bool b_is_transposed;
};

template <class Device, class Out>
void agrees_with_the_cpu(const Sizes& sizes, const Factors& factors, Place place) {
    const Stream<Device> stream;
    for (const int turns : {0, 1, 2, 3}) {
        const Product<Element<Device>> product(sizes, turns % 2 == 1, turns >= 2);
        Matrix expected = random_matrix<Out>(82, {sizes.rows, sizes.columns});
        DeviceMatrix<Device, Out> out(stream, expected, place);
        product.run(stream, out.view(), factors, place, {0, sizes.rows});
        product.run(Stream<Cpu>(), expected.view(), factors);
        require_near("out", out.values(), expected.values<float>());
        BOOST_TEST(out.is_intact());
    }
}

// Of what each output type is made with.
template <class Device, class Check>
void for_outputs(const Check& check) {
    check(float{});
    if constexpr (!is_float<Element<Device>>) {
        check(BFloat16{});
    }
}

}  // namespace

BOOST_AUTO_TEST_CASE_TEMPLATE(products_agree_with_the_cpu, Device, Devices) {
    for_outputs<Device>([](auto out) {
        for (const Index rows : {Index{1}, Index{7}, Index{64}}) {
            for (const Index columns : {Index{1}, Index{8}, Index{129}}) {
                for (const Index depth : {Index{1}, Index{3}, Index{64}}) {
                    const Sizes sizes{rows, columns, depth};
                    agrees_with_the_cpu<Device, decltype(out)>(sizes, {1.5F, 0}, {});
                    agrees_with_the_cpu<Device, decltype(out)>(sizes, {1, 0.75F}, {8, 8});
                    agrees_with_the_cpu<Device, decltype(out)>(sizes, {0.5F, 1}, {3, 1});
                }
            }
        }
        agrees_with_the_cpu<Device, decltype(out)>({33, 200, 1030}, {1, 1}, {});
    });
}

// The rows are tokens unless a is transposed: a token's result must not depend on its neighbours.
BOOST_AUTO_TEST_CASE_TEMPLATE(bits_of_a_row_do_not_depend_on_its_neighbours, Device, Devices) {
    const Stream<Device> stream;
    for_outputs<Device>([&](auto type) {
        using Out = decltype(type);
        for (const bool b_is_transposed : {false, true}) {
            for (const Place& place : {Place{0, 0}, Place{1, 0}}) {
                const Sizes sizes{301, 72, 256};
                const Product<Element<Device>> product(sizes, false, b_is_transposed);
                const Matrix before = random_matrix<Out>(83, {sizes.rows, sizes.columns});
                DeviceMatrix<Device, Out> whole(stream, before, place);
                DeviceMatrix<Device, Out> parts(stream, before, place);
                const Factors factors{0.5F, 1};
                product.run(stream, whole.view(), factors, place, {0, sizes.rows});
                for (const Range rows :
                     {Range{0, 1}, Range{1, 20}, Range{20, 53}, Range{53, 301}}) {
                    product.run(stream, parts.view(), factors, place, rows);
                }
                BOOST_TEST((whole.values() == parts.values()));
            }
        }
    });
}

BOOST_AUTO_TEST_CASE_TEMPLATE(repeated_products_have_the_same_bits, Device, Devices) {
    const Stream<Device> stream;
    const Product<Element<Device>> product({16, 4096, 1024}, true, false);
    std::vector<std::vector<float>> results;
    for (int i = 0; i < 3; ++i) {
        DeviceMatrix<Device, float> out(stream, 16, 4096);
        product.run(stream, out.view(), {1, 0}, {}, {0, 16});
        results.push_back(out.values());
    }
    BOOST_TEST((results[0] == results[1]));
    BOOST_TEST((results[0] == results[2]));
}

BOOST_AUTO_TEST_CASE_TEMPLATE(empty_products, Device, Devices) {
    const Stream<Device> stream;
    for_outputs<Device>([&](auto type) {
        using Out = decltype(type);
        const Matrix before = random_matrix<Out>(84, {3, 4});
        const Product<Element<Device>> no_depth({3, 4, 0}, false, false);
        DeviceMatrix<Device, Out> kept(stream, before, {1, 0});
        no_depth.run(stream, kept.view(), {1, 1}, {}, {0, 3});
        BOOST_TEST((floats(kept.values()) == before.values<float>()));
        DeviceMatrix<Device, Out> cleared(stream, 3, 4, {1, 0});  // NaN at first
        no_depth.run(stream, cleared.view(), {1, 0}, {}, {0, 3});
        BOOST_TEST((floats(cleared.values()) == std::vector<float>(12, 0.0F)));
        BOOST_TEST(cleared.is_intact());
        DeviceMatrix<Device, Out> no_rows(stream, 0, 4);
        Product<Element<Device>>({0, 4, 5}, false, true)
            .run(stream, no_rows.view(), {1, 0}, {}, {0, 0});
        DeviceMatrix<Device, Out> no_columns(stream, 3, 0);
        Product<Element<Device>>({3, 0, 5}, true, false)
            .run(stream, no_columns.view(), {1, 0}, {}, {0, 3});
    });
}
