#include "kernels/cross_entropy.hpp"

#include "cuda/device_matrix.hpp"

using namespace longlora;
using namespace longlora::cuda_test;

namespace {

// Every third label is ignored.
std::vector<std::int32_t> labels_of(const Shape& shape) {
    std::vector<std::int32_t> labels;
    for (Index t = 0; t < shape.rows; ++t) {
        const auto label =
            static_cast<std::int32_t>(random_bits(40, static_cast<std::uint64_t>(t)) %
                                      static_cast<std::uint64_t>(shape.columns));
        labels.push_back(t % 3 == 2 ? ignored_label : label);
    }
    return labels;
}

enum class Gradient { none, beside, in_place };

template <class Device>
void agrees_with_the_cpu(const Shape& shape, const Matrix& z, Gradient gradient) {
    using S = Element<Device>;
    const Stream<Device> stream;
    const bool wants_gradient = gradient != Gradient::none;
    const std::vector<std::int32_t> label = labels_of(shape);
    std::vector<float> expected(label.size());
    Matrix expected_gradient(shape.rows, shape.columns);
    constexpr float scale = 0.0625F;
    cross_entropy(Stream<Cpu>(), {.logits = z.view(),
                                  .labels = reference::view(label),
                                  .loss = reference::view(expected),
                                  .scale = scale,
                                  .wants_gradient = wants_gradient,
                                  .d_logits = expected_gradient.view()});
    DeviceMatrix<Device, float> logits(stream, z, shape.place);
    const DeviceMatrix<Device, std::int32_t> labels(stream, label);
    DeviceMatrix<Device, float> loss(stream, 1, shape.rows);
    DeviceMatrix<Device, S> beside(stream, shape);
    auto* d_logits = &beside;
    if constexpr (std::is_same_v<S, float>) {
        d_logits = gradient == Gradient::in_place ? &logits : &beside;
    }
    const View<Device, S, 2> none(nullptr, 0, 0);
    cross_entropy(stream,
                  CrossEntropy<Device>{.logits = logits.view(),
                                       .labels = labels.row(),
                                       .loss = loss.row(),
                                       .scale = scale,
                                       .wants_gradient = wants_gradient,
                                       .d_logits = wants_gradient ? d_logits->view() : none});
    require_near("loss", loss.values(), expected, 1e-6);
    BOOST_TEST(loss.is_intact());
    BOOST_TEST(logits.is_intact());
    if (wants_gradient) {
        require_near("d_logits", d_logits->values(), expected_gradient.values<float>());
        BOOST_TEST(d_logits->is_intact());
    }
    if (gradient != Gradient::in_place) {
        BOOST_TEST((logits.values() == z.values<float>()));
    }
}

}  // namespace

// Rows that shared memory holds, and rows that it does not, among them.
BOOST_AUTO_TEST_CASE_TEMPLATE(loss_and_gradient_agree_with_the_cpu, Device, Devices) {
    std::vector<Shape> all = shapes;
    all.push_back({2, 32000});
    all.push_back({2, 65541, {0, 1}});
    for (const Shape& shape : all) {
        const Matrix z = random_matrix<float>(41, shape);
        agrees_with_the_cpu<Device>(shape, z, Gradient::none);
        agrees_with_the_cpu<Device>(shape, z, Gradient::beside);
        if constexpr (std::is_same_v<Element<Device>, float>) {
            agrees_with_the_cpu<Device>(shape, z, Gradient::in_place);
        }
    }
}

// Logits far apart, and a maximum that comes last.
BOOST_AUTO_TEST_CASE_TEMPLATE(large_logits_do_not_overflow, Device, Devices) {
    for (const Shape& shape : {Shape{2, 9}, Shape{2, 4100}}) {
        Matrix z(shape.rows, shape.columns);
        for (Index t = 0; t < shape.rows; ++t) {
            for (Index i = 0; i < shape.columns; ++i) {
                z.view()(t, i) = static_cast<float>((t == 0 ? 1000 : -10) * i);
            }
        }
        agrees_with_the_cpu<Device>(shape, z, Gradient::beside);
    }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(sums_of_losses_are_the_cpus, Device, Devices) {
    const Stream<Device> stream;
    for (const Index size : {Index{0}, Index{1}, Index{255}, Index{1000}}) {
        std::vector<float> loss;
        for (Index t = 0; t < size; ++t) {  // halves of a unit among them
            loss.push_back(t % 2 == 0 ? 2 + Matrix::uniform(44, t)
                                      : std::ldexp(static_cast<float>(t) - 0.5F, -26));
        }
        const float infinity = std::numeric_limits<float>::infinity();
        const std::vector<float> special = {65536, 65537, infinity,
                                            -1,    0,     std::numeric_limits<float>::quiet_NaN()};
        for (std::size_t i = 0; 40 * i < loss.size() && i < special.size(); ++i) {
            loss[40 * i] = special[i];
        }
        std::vector<std::int64_t> sum = {1000, 7};
        const DeviceMatrix<Device, float> losses(stream, loss);
        DeviceMatrix<Device, std::int64_t> sums(stream, sum);
        loss_sum(stream, LossSum<Device>{.loss = losses.row(), .sum = sums.row()});
        loss_sum(Stream<Cpu>(),
                 {.loss = reference::view(std::as_const(loss)), .sum = reference::view(sum)});
        BOOST_TEST((sums.values() == sum));
        BOOST_TEST(sums.is_intact());
    }
}
