#include "kernels/rms_norm.hpp"

#include "reference/compare.hpp"
#include "reference/rms_norm.hpp"

using namespace longlora;
using namespace longlora::reference;

namespace {

struct Shape {
    Index rows;
    Index width;
    Index gap;
};
const std::vector<Shape> shapes = {{1, 5, 0}, {1, 7, 0}, {7, 33, 3}, {33, 64, 0}, {130, 12, 5}};
constexpr float epsilon = 1e-5F;

}  // namespace

BOOST_AUTO_TEST_CASE(forward_agrees_with_the_formula) {
    for (const Shape& shape : shapes) {
        const Matrix x = Matrix::random(1, shape.rows, shape.width, shape.gap);
        const std::vector<float> weight = random_vector(2, shape.width);
        Matrix y(shape.rows, shape.width, 2 * shape.gap);
        Matrix normalised(shape.rows, shape.width, shape.gap);
        std::vector<float> rstd(static_cast<std::size_t>(shape.rows));
        rms_norm_forward(Stream<Cpu>(), {.x = x.view(),
                                         .weight = view(weight),
                                         .y = y.view(),
                                         .normalised = normalised.view(),
                                         .rstd = view(rstd),
                                         .epsilon = epsilon});
        const auto expected = rms_norm<double>(x.values(), convert<double>(weight), epsilon);
        const auto plain = rms_norm<float>(x.values<float>(), weight, epsilon);
        require_close("y", y.values(), expected, earned_tolerance(plain, expected));
        BOOST_TEST(y.gaps_are_intact());

        BOOST_TEST(normalised.gaps_are_intact());
        Matrix again(shape.rows, shape.width, shape.gap);
        rms_norm_again(
            Stream<Cpu>(),
            {.normalised = normalised.view(), .weight = view(weight), .y = again.view()});
        BOOST_TEST(again.values() == y.values());
        BOOST_TEST(again.gaps_are_intact());
        Matrix nothing_kept(shape.rows, shape.width);
        rms_norm_forward(Stream<Cpu>(), {.x = x.view(),
                                         .weight = view(weight),
                                         .y = nothing_kept.view(),
                                         .normalised = {nullptr, 0, 0},
                                         .rstd = view(rstd),
                                         .epsilon = epsilon});
        BOOST_TEST(nothing_kept.values() == y.values());

        // y = w x r, so r = y / (w x) where that is not 0.
        const double r = expected[0] / (static_cast<double>(weight[0]) * x.values()[0]);
        require_close("rstd", std::vector<float>{rstd[0]}, {r}, 1e-6 * r);
    }
}

BOOST_AUTO_TEST_CASE(backward_is_the_derivative) {
    using Complex = std::complex<double>;
    for (const Shape& shape : shapes) {
        const Matrix x = Matrix::random(3, shape.rows, shape.width, shape.gap);
        const Matrix d_y = Matrix::random(4, shape.rows, shape.width, shape.gap);
        const std::vector<float> weight = random_vector(5, shape.width);
        Matrix y(shape.rows, shape.width);
        Matrix normalised(shape.rows, shape.width, 2 * shape.gap);
        std::vector<float> rstd(static_cast<std::size_t>(shape.rows));
        const Stream<Cpu> stream;
        rms_norm_forward(stream, {.x = x.view(),
                                  .weight = view(weight),
                                  .y = y.view(),
                                  .normalised = normalised.view(),
                                  .rstd = view(rstd),
                                  .epsilon = epsilon});
        Matrix d_x = Matrix::random(6, shape.rows, shape.width, shape.gap);
        std::vector<float> d_weight = random_vector(7, shape.width);
        std::vector<double> expected_x = d_x.values();
        std::vector<double> expected_weight = convert<double>(d_weight);
        rms_norm_backward(stream, {.d_y = d_y.view(),
                                   .normalised = normalised.view(),
                                   .weight = view(weight),
                                   .rstd = view(rstd),
                                   .d_x = d_x.view(),
                                   .d_weight = view(d_weight)});
        BOOST_TEST(d_x.gaps_are_intact());

        const auto of_row = [&](Index t, const auto& values) {
            const auto begin = values.begin() + t * shape.width;
            return std::vector<double>(begin, begin + shape.width);
        };
        const std::vector<Complex> complex_weight = convert<Complex>(weight);
        for (Index t = 0; t < shape.rows; ++t) {
            const std::vector<double> d = of_row(t, d_y.values());
            const auto by_x = gradient(
                [&](const auto& z) {
                    return dot(rms_norm<Complex>(z, complex_weight, epsilon), d);
                },
                of_row(t, x.values()));
            const auto complex_x = convert<Complex>(of_row(t, x.values()));
            const auto by_weight = gradient(
                [&](const auto& z) { return dot(rms_norm<Complex>(complex_x, z, epsilon), d); },
                convert<double>(weight));
            for (std::size_t e = 0; e < d.size(); ++e) {
                expected_x[static_cast<std::size_t>(t * shape.width) + e] += by_x[e];
                expected_weight[e] += by_weight[e];
            }
        }
        require_close("d_x", d_x.values(), expected_x, relative_tolerance(1e-6, expected_x));
        require_close("d_weight", d_weight, expected_weight,
                      relative_tolerance(1e-6, expected_weight));
    }
}

BOOST_AUTO_TEST_CASE(a_frozen_norm_and_threads_change_no_bit) {
    const Matrix x = Matrix::random(8, 200, 48);
    const Matrix d_y = Matrix::random(9, 200, 48);
    const std::vector<float> weight = random_vector(10, 48);
    const std::vector<float> rstd(200, 0.5F);
    Matrix d_x_one(200, 48);
    Matrix d_x_three(200, 48);
    std::vector<float> d_weight_one(48);
    std::vector<float> d_weight_three(48);
    rms_norm_backward(Stream<Cpu>(1), {.d_y = d_y.view(),
                                       .normalised = x.view(),
                                       .weight = view(weight),
                                       .rstd = view(rstd),
                                       .d_x = d_x_one.view(),
                                       .d_weight = view(d_weight_one)});
    rms_norm_backward(Stream<Cpu>(3), {.d_y = d_y.view(),
                                       .normalised = x.view(),
                                       .weight = view(weight),
                                       .rstd = view(rstd),
                                       .d_x = d_x_three.view(),
                                       .d_weight = view(d_weight_three)});
    BOOST_TEST(d_weight_one == d_weight_three);
    BOOST_TEST(d_x_one.values() == d_x_three.values());

    Matrix d_x_frozen(200, 48);
    rms_norm_backward(Stream<Cpu>(), {.d_y = d_y.view(),
                                      .normalised = x.view(),
                                      .weight = view(weight),
                                      .rstd = view(rstd),
                                      .d_x = d_x_frozen.view(),
                                      .d_weight = {nullptr, 0}});
    BOOST_TEST(d_x_one.values() == d_x_frozen.values());
}
