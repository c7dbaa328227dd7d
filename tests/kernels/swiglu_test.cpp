#include "kernels/swiglu.hpp"

#include "reference/compare.hpp"
#include "reference/swiglu.hpp"

using namespace longlora;
using namespace longlora::reference;

namespace {

struct Shape {
    Index rows;
    Index width;
    Index gap;
};
const std::vector<Shape> shapes = {{1, 1, 0}, {7, 33, 3}, {33, 16, 0}, {40, 100, 1}};

}  // namespace

BOOST_AUTO_TEST_CASE(forward_agrees_with_the_formula) {
    for (const Shape& shape : shapes) {
        const Matrix gate = Matrix::random(30, shape.rows, shape.width, shape.gap);
        const Matrix up = Matrix::random(31, shape.rows, shape.width, 2 * shape.gap);
        Matrix out(shape.rows, shape.width, 3 * shape.gap);
        swiglu_forward(Stream<Cpu>(2), {.gate = gate.view(), .up = up.view(), .out = out.view()});
        const auto expected = swiglu<double>(gate.values(), up.values());
        const auto plain = swiglu<float>(gate.values<float>(), up.values<float>());
        require_close("out", out.values(), expected, earned_tolerance(plain, expected));
        BOOST_TEST(out.gaps_are_intact());
    }
}

BOOST_AUTO_TEST_CASE(far_values_saturate) {
    const std::vector<double> far = {-1e4, -200, -90, -30, -1e-20, 0, 30, 90, 200, 1e4};
    Matrix gate(1, 10);
    Matrix up(1, 10);
    for (Index i = 0; i < 10; ++i) {
        gate.view()(0, i) = static_cast<float>(far[static_cast<std::size_t>(i)]);
        up.view()(0, i) = 1;
    }
    Matrix out(1, 10);
    swiglu_forward(Stream<Cpu>(), {.gate = gate.view(), .up = up.view(), .out = out.view()});
    const auto expected = swiglu<double>(gate.values(), up.values());
    for (Index i = 0; i < 10; ++i) {
        const double value = expected[static_cast<std::size_t>(i)];
        BOOST_TEST(std::abs(out.view()(0, i) - value) <= 2e-6 * std::abs(value) + 1e-33);
    }
    gate.view()(0, 3) = std::numeric_limits<float>::quiet_NaN();
    swiglu_forward(Stream<Cpu>(), {.gate = gate.view(), .up = up.view(), .out = out.view()});
    BOOST_TEST(std::isnan(out.view()(0, 3)));
}

// Each gradient in place of its input, as the model calls it.
BOOST_AUTO_TEST_CASE(backward_is_the_derivative) {
    using Complex = std::complex<double>;
    for (const Shape& shape : {Shape{1, 1, 0}, Shape{5, 11, 2}, Shape{2, 24, 0}}) {
        Matrix gate = Matrix::random(32, shape.rows, shape.width, shape.gap);
        Matrix up = Matrix::random(33, shape.rows, shape.width, shape.gap);
        const Matrix d_out = Matrix::random(34, shape.rows, shape.width, 1);
        const auto g = convert<Complex>(gate.values());
        const auto u = convert<Complex>(up.values());
        const auto d = d_out.values();
        const auto d_gate =
            gradient([&](const auto& z) { return dot(swiglu<Complex>(z, u), d); }, gate.values());
        const auto d_up =
            gradient([&](const auto& z) { return dot(swiglu<Complex>(g, z), d); }, up.values());
        swiglu_backward(Stream<Cpu>(2), {.d_out = d_out.view(),
                                         .gate = gate.view(),
                                         .up = up.view(),
                                         .d_gate = gate.view(),
                                         .d_up = up.view()});
        require_close("d_gate", gate.values(), d_gate, relative_tolerance(5e-7, d_gate));
        require_close("d_up", up.values(), d_up, relative_tolerance(5e-7, d_up));
        BOOST_TEST(gate.gaps_are_intact());
        BOOST_TEST(up.gaps_are_intact());
    }
}
