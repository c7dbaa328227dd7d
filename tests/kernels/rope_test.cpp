#include "kernels/rope.hpp"

#include "reference/compare.hpp"
#include "reference/rope.hpp"

using namespace longlora;
using namespace longlora::reference;

namespace {

struct Shape {
    Index rows;
    Index heads;
    Index half;
    Index gap;
};
const std::vector<Shape> shapes = {{1, 1, 1, 0}, {7, 3, 4, 5}, {33, 2, 8, 0}, {70, 3, 13, 2}};

// One cosine and sine a pair, of angles that differ everywhere.
struct Angles {
    explicit Angles(const Shape& shape)
        : cosine(shape.rows, shape.half), sine(shape.rows, shape.half) {
        for (Index t = 0; t < shape.rows; ++t) {
            for (Index i = 0; i < shape.half; ++i) {
                const float angle = 2 * Matrix::uniform(20, t * shape.half + i);
                cosine.view()(t, i) = std::cos(angle);
                sine.view()(t, i) = std::sin(angle);
            }
        }
    }

    Matrix cosine;
    Matrix sine;
};

// cos and sin of angle_i(p) = p / factor * theta^(-2i/D), by another way of writing it.
double largest_error(double theta, double factor, Index first) {
    constexpr Index rows = 5;
    constexpr Index pairs = 6;
    Matrix cosine(rows, pairs);
    Matrix sine(rows, pairs);
    rotary_table(Stream<Cpu>(2), {.first_position = first,
                                  .theta = theta,
                                  .factor = factor,
                                  .cosine = cosine.view(),
                                  .sine = sine.view()});
    double error = 0;
    for (Index t = 0; t < rows; ++t) {
        for (Index i = 0; i < pairs; ++i) {
            const long double exponent =
                static_cast<long double>(i) / static_cast<long double>(pairs);
            const long double turn =
                std::exp(-exponent * std::log(static_cast<long double>(theta)));
            const long double angle =
                static_cast<long double>(first + t) / static_cast<long double>(factor) * turn;
            error = std::max(error, std::abs(static_cast<double>(std::cos(angle)) -
                                             static_cast<double>(cosine.view()(t, i))));
            error = std::max(error, std::abs(static_cast<double>(std::sin(angle)) -
                                             static_cast<double>(sine.view()(t, i))));
        }
    }
    return error;
}

constexpr double half_ulp_of_one = 0x1.0p-24;

}  // namespace

BOOST_AUTO_TEST_CASE(forward_agrees_with_the_formula) {
    for (const Shape& shape : shapes) {
        const Angles angles(shape);
        const Index columns = 2 * shape.heads * shape.half;
        Matrix x = Matrix::random(21, shape.rows, columns, shape.gap);
        const auto width = static_cast<std::size_t>(columns);
        const auto half = static_cast<std::size_t>(shape.half);
        const auto expected =
            rope<double>(x.values(), angles.cosine.values(), angles.sine.values(), width, half);
        const auto plain = rope<float>(x.values<float>(), angles.cosine.values<float>(),
                                       angles.sine.values<float>(), width, half);
        longlora::rope(Stream<Cpu>(2),
                       {.x = x.view(), .cosine = angles.cosine.view(), .sine = angles.sine.view()});
        require_close("x", x.values(), expected, earned_tolerance(plain, expected));
        BOOST_TEST(x.gaps_are_intact());
    }
}

// The turn is linear and its inverse its transpose: <d, rope x> = <inverse d, x>.
BOOST_AUTO_TEST_CASE(inverse_is_the_derivative) {
    using Complex = std::complex<double>;
    const Shape shape{3, 2, 5, 0};
    const Angles angles(shape);
    const Matrix x = Matrix::random(22, 3, 20);
    Matrix d = Matrix::random(23, 3, 20, 4);
    const std::vector<double> d_y = d.values();
    const auto cosine = convert<Complex>(angles.cosine.values());
    const auto sine = convert<Complex>(angles.sine.values());
    const auto expected = gradient(
        [&](const auto& z) { return dot(rope<Complex>(z, cosine, sine, 20, 5), d_y); }, x.values());
    rope_gradient(Stream<Cpu>(), {.d_y = d.view(),
                                  .cosine = angles.cosine.view(),
                                  .sine = angles.sine.view(),
                                  .d_x = d.view()});
    require_close("d_x", d.values(), expected, relative_tolerance(2e-7, expected));
}

BOOST_AUTO_TEST_CASE(angles_follow_the_formula_far_out_too) {
    for (const double theta : {10000.0, 500000.0}) {
        for (const Index first : {0, 1, 511, 131072, 10000000}) {
            BOOST_TEST(largest_error(theta, 1, first) < 1.1 * half_ulp_of_one);
        }
    }
    for (const Index first : {0, 4091, 131072}) {  // linear scaling
        BOOST_TEST(largest_error(10000, 8, first) < 1.1 * half_ulp_of_one);
    }
}
