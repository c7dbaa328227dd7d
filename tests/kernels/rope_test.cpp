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
    longlora::rope(Stream<Cpu>(), {.x = d.view(),
                                   .cosine = angles.cosine.view(),
                                   .sine = angles.sine.view(),
                                   .is_inverse = true});
    require_close("d_x", d.values(), expected, relative_tolerance(2e-7, expected));
}
