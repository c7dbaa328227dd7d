#include "kernels/rms_norm.hpp"

#include "cuda/device_matrix.hpp"

using namespace longlora;
using namespace longlora::cuda_test;

namespace {

constexpr float epsilon = 1e-5F;

// More rows than one slab of the sum over rows, and more slabs than it is shared by; rows for each number of threads,
// whole and not, and one that registers do not hold.
std::vector<Shape> shapes_of_norms() {
    std::vector<Shape> all = shapes;
    for (const Shape& shape : std::vector<Shape>{{300, 48},
                                                 {700, 8},
                                                 {17, 4096},
                                                 {2, 8192},
                                                 {2, 8190, {1, 0}},
                                                 {2, 12288},
                                                 {2, 16388},
                                                 {2, 16387, {0, 1}}}) {
        all.push_back(shape);
    }
    return all;
}

template <class S>
struct Backward {
    explicit Backward(const Shape& shape)
        : normalised(random_matrix<S>(13, shape)),
          d_y(random_matrix<float>(14, shape)),
          weight(reference::random_vector(15, shape.columns)),
          d_x(random_matrix<float>(16, shape)),
          d_weight(reference::random_vector(17, shape.columns)) {
        for (Index t = 0; t < shape.rows; ++t) {
            rstd.push_back(1 + Matrix::uniform(18, t) / 4);
        }
    }

    Matrix normalised;
    Matrix d_y;
    std::vector<float> weight;
    std::vector<float> rstd;
    Matrix d_x;
    std::vector<float> d_weight;
};

}  // namespace

BOOST_AUTO_TEST_CASE_TEMPLATE(forward_agrees_with_the_cpu, Device, Devices) {
    const Stream<Device> stream;
    for (const Shape& shape : shapes_of_norms()) {
        const Matrix x = random_matrix<float>(11, shape);
        const std::vector<float> weight = reference::random_vector(12, shape.columns);
        Matrix y(shape.rows, shape.columns);
        Matrix normalised(shape.rows, shape.columns);
        std::vector<float> rstd(static_cast<std::size_t>(shape.rows));
        rms_norm_forward(Stream<Cpu>(), {.x = x.view(),
                                         .weight = reference::view(weight),
                                         .y = y.view(),
                                         .normalised = normalised.view(),
                                         .rstd = reference::view(rstd),
                                         .epsilon = epsilon});
        const DeviceMatrix<Device, float> from(stream, x, shape.place);
        const DeviceMatrix<Device, float> weights(stream, weight);
        DeviceMatrix<Device, Element<Device>> out(stream, shape);
        DeviceMatrix<Device, Element<Device>> n(stream, shape);
        DeviceMatrix<Device, float> kept(stream, 1, shape.rows);
        rms_norm_forward(stream, RmsNormForward<Device>{.x = from.view(),
                                                        .weight = weights.row(),
                                                        .y = out.view(),
                                                        .normalised = n.view(),
                                                        .rstd = kept.row(),
                                                        .epsilon = epsilon});
        require_near("n", n.values(), normalised.values<float>());
        // y is made of the n that is stored
        const std::vector<Element<Device>> stored = n.values();
        std::vector<float> expected;
        for (std::size_t i = 0; i < stored.size(); ++i) {
            expected.push_back(to_float(stored[i]) *
                               weight[i % static_cast<std::size_t>(shape.columns)]);
        }
        require_near("y", out.values(), expected);
        DeviceMatrix<Device, Element<Device>> again(stream, shape);
        rms_norm_again(stream,
                       RmsNormAgain<Device>{
                           .normalised = n.view(), .weight = weights.row(), .y = again.view()});
        BOOST_TEST((again.values() == out.values()));
        BOOST_TEST(again.is_intact());
        BOOST_TEST(n.is_intact());
        require_near("rstd", kept.values(), rstd, 1e-6);
        BOOST_TEST(out.is_intact());
        BOOST_TEST(kept.is_intact());
    }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(backward_agrees_with_the_cpu, Device, Devices) {
    const Stream<Device> stream;
    for (const Shape& shape : shapes_of_norms()) {
        for (const bool is_frozen : {false, true}) {
            Backward<Element<Device>> expected(shape);
            const DeviceMatrix<Device, Element<Device>> normalised(stream, expected.normalised,
                                                                   shape.place);
            const DeviceMatrix<Device, float> d_y(stream, expected.d_y, shape.place);
            const DeviceMatrix<Device, float> weight(stream, expected.weight);
            const DeviceMatrix<Device, float> rstd(stream, expected.rstd);
            DeviceMatrix<Device, float> d_x(stream, expected.d_x, shape.place);
            DeviceMatrix<Device, float> d_weight(stream, expected.d_weight);
            const View<Device, float, 1> none(nullptr, 0);
            rms_norm_backward(
                stream, RmsNormBackward<Device>{.d_y = d_y.view(),
                                                .normalised = normalised.view(),
                                                .weight = weight.row(),
                                                .rstd = rstd.row(),
                                                .d_x = d_x.view(),
                                                .d_weight = is_frozen ? none : d_weight.row()});
            const View<Cpu, float, 1> no_weight(nullptr, 0);
            rms_norm_backward(
                Stream<Cpu>(),
                RmsNormBackward<Cpu>{
                    .d_y = expected.d_y.view(),
                    .normalised = expected.normalised.view(),
                    .weight = reference::view(std::as_const(expected.weight)),
                    .rstd = reference::view(std::as_const(expected.rstd)),
                    .d_x = expected.d_x.view(),
                    .d_weight = is_frozen ? no_weight : reference::view(expected.d_weight)});
            require_near("d_x", d_x.values(), expected.d_x.template values<float>());
            require_near("d_weight", d_weight.values(), expected.d_weight);
            BOOST_TEST(d_x.is_intact());
            BOOST_TEST(d_weight.is_intact());
        }
    }
}

// Rows of an odd pitch: the second lies where no wide access may begin.
BOOST_AUTO_TEST_CASE_TEMPLATE(bits_do_not_depend_on_where_a_row_lies, Device, Devices) {
    const Stream<Device> stream;
    for (const Index columns : {Index{129}, Index{4096}, Index{8192}, Index{16400}}) {
        std::vector<std::vector<Element<Device>>> results;
        std::vector<std::vector<float>> gradients;
        std::vector<std::vector<float>> weight_gradients;
        for (const Place& place : {Place{0, 0}, Place{1, 0}, Place{0, 1}}) {
            const DeviceMatrix<Device, float> x(stream, Matrix::random(19, 3, columns), place);
            const DeviceMatrix<Device, float> weight(stream, reference::random_vector(20, columns));
            DeviceMatrix<Device, Element<Device>> y(stream, 3, columns, place);
            DeviceMatrix<Device, Element<Device>> n(stream, 3, columns, place);
            DeviceMatrix<Device, float> rstd(stream, 1, 3);
            rms_norm_forward(stream, RmsNormForward<Device>{.x = x.view(),
                                                            .weight = weight.row(),
                                                            .y = y.view(),
                                                            .normalised = n.view(),
                                                            .rstd = rstd.row(),
                                                            .epsilon = epsilon});
            results.push_back(y.values());
            DeviceMatrix<Device, float> d_x(stream, Matrix::random(21, 3, columns), place);
            DeviceMatrix<Device, float> d_weight(stream,
                                                 std::vector<float>(weight.values().size()));
            rms_norm_backward(stream, RmsNormBackward<Device>{.d_y = x.view(),
                                                              .normalised = n.view(),
                                                              .weight = weight.row(),
                                                              .rstd = rstd.row(),
                                                              .d_x = d_x.view(),
                                                              .d_weight = d_weight.row()});
            gradients.push_back(d_x.values());
            weight_gradients.push_back(d_weight.values());
        }
        BOOST_TEST((results[0] == results[1]));
        BOOST_TEST((results[0] == results[2]));
        BOOST_TEST((gradients[0] == gradients[1]));
        BOOST_TEST((gradients[0] == gradients[2]));
        BOOST_TEST((weight_gradients[0] == weight_gradients[1]));
        BOOST_TEST((weight_gradients[0] == weight_gradients[2]));
    }
}
