#include "kernels/elementwise.hpp"

#include "reference/compare.hpp"

using namespace longlora;
using namespace longlora::reference;

namespace {

struct Shape {
    Index rows;
    Index columns;
};
const std::vector<Shape> shapes = {{0, 5}, {1, 1}, {7, 33}, {200, 300}};

}  // namespace

BOOST_AUTO_TEST_CASE(copy_and_accumulate) {
    for (const Shape& shape : shapes) {
        const Matrix x = Matrix::random(70, shape.rows, shape.columns, 3);
        Matrix out(shape.rows, shape.columns, 1);
        copy(Stream<Cpu>(2), {.x = x.view(), .out = out.view()});
        BOOST_TEST(out.values() == x.values());
        accumulate(Stream<Cpu>(2), {.x = x.view(), .out = out.view()});
        std::vector<double> twice = x.values();
        for (double& value : twice) {
            value *= 2;
        }
        BOOST_TEST(out.values() == twice);
        BOOST_TEST(out.gaps_are_intact());
    }
}

BOOST_AUTO_TEST_CASE(convert_scales) {
    for (const Shape& shape : shapes) {
        Matrix x = Matrix::random(75, shape.rows, shape.columns, 3);
        std::vector<double> expected = x.values();
        for (double& value : expected) {
            value = static_cast<double>(1.75F * static_cast<float>(value));
        }
        Matrix out(shape.rows, shape.columns, 1);
        convert(Stream<Cpu>(2), {.x = x.view(), .out = out.view()});
        BOOST_TEST(out.values() == x.values());
        convert(Stream<Cpu>(2), {.x = x.view(), .out = out.view(), .scale = 1.75F});
        BOOST_TEST(out.values() == expected);
        BOOST_TEST(out.gaps_are_intact());
        convert(Stream<Cpu>(2), {.x = x.view(), .out = x.view()});
        convert(Stream<Cpu>(2), {.x = x.view(), .out = x.view(), .scale = 1.75F});
        BOOST_TEST(x.values() == expected);
    }
}

BOOST_AUTO_TEST_CASE(dropout_drops_the_share_and_scales_the_rest) {
    const Matrix x = Matrix::random(71, 200, 300, 2);
    Matrix out(200, 300);
    dropout(Stream<Cpu>(2),
            {.x = x.view(), .out = out.view(), .probability = 0.25, .key = 5, .first_row = 1000});
    Index dropped = 0;
    bool is_scaled = true;
    for (Index t = 0; t < 200; ++t) {
        for (Index i = 0; i < 300; ++i) {
            const auto index = static_cast<std::uint64_t>((1000 + t) * 300 + i);
            const bool is_dropped = random_uniform(5, index) < 0.25;
            const float expected =
                is_dropped ? 0.0F : x.view()(t, i) * static_cast<float>(1 / 0.75);
            is_scaled = is_scaled && out.view()(t, i) == expected;
            dropped += is_dropped ? 1 : 0;
        }
    }
    BOOST_TEST(is_scaled);
    BOOST_TEST(std::abs(static_cast<double>(dropped) / 60000 - 0.25) < 0.01);
}

BOOST_AUTO_TEST_CASE(dropout_of_a_shard_is_the_shard_of_the_dropout) {
    const Matrix x = Matrix::random(72, 40, 33);
    Matrix whole(40, 33);
    dropout(Stream<Cpu>(),
            {.x = x.view(), .out = whole.view(), .probability = 0.5, .key = 6, .first_row = 0});
    Matrix part = Matrix::random(73, 15, 33);
    std::vector<double> expected = part.values();
    dropout(Stream<Cpu>(), {.x = x.view().rows({25, 40}),
                            .out = part.view(),
                            .probability = 0.5,
                            .key = 6,
                            .first_row = 25,
                            .accumulate = true});
    for (std::size_t i = 0; i < expected.size(); ++i) {
        expected[i] = static_cast<double>(
            static_cast<float>(expected[i] + static_cast<double>(whole.values()[25 * 33 + i])));
    }
    BOOST_TEST(part.values() == expected);
}

BOOST_AUTO_TEST_CASE(squared_norms_are_exact_and_the_same_for_any_threads) {
    constexpr Index piece = 128;
    for (const Index size : {Index{0}, Index{1}, Index{128}, Index{300}, Index{30001}}) {
        const std::vector<float> x = random_vector(74, size);
        const auto pieces = static_cast<std::size_t>((size + piece - 1) / piece);
        std::vector<long double> expected(pieces, 0);
        for (std::size_t i = 0; i < x.size(); ++i) {
            expected[i / piece] += static_cast<long double>(x[i]) * static_cast<long double>(x[i]);
        }
        std::vector<double> one(pieces, -1);
        squared_norms(Stream<Cpu>(1), {.x = view(x), .piece = piece, .squares = view(one)});
        for (std::size_t i = 0; i < pieces; ++i) {
            BOOST_TEST(std::abs(one[i] - static_cast<double>(expected[i])) <= 1e-14 * one[i]);
        }
        std::vector<double> three(pieces, -1);
        squared_norms(Stream<Cpu>(3), {.x = view(x), .piece = piece, .squares = view(three)});
        BOOST_TEST(one == three);
    }
    const std::vector<float> bad = {1, std::numeric_limits<float>::quiet_NaN(), 2};
    std::vector<double> square(1);
    squared_norms(Stream<Cpu>(), {.x = view(bad), .piece = Index{3}, .squares = view(square)});
    BOOST_TEST(std::isnan(square[0]));
}
