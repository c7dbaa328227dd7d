#include "kernels/rope.hpp"

#include "cuda/device_matrix.hpp"

using namespace longlora;
using namespace longlora::cuda_test;

namespace {

struct Heads {
    Index rows;
    Index heads;
    Index half;
    Place place = {};

    Shape shape() const { return {rows, 2 * heads * half, place}; }
};
const std::vector<Heads> cases = {
    {0, 2, 8},   {1, 1, 1},         {7, 3, 4, {5, 0}}, {70, 3, 13, {2, 0}}, {33, 2, 64, {16, 8}},
    {5, 32, 64}, {3, 4, 64, {0, 1}}};

// Cosine and sine of angles from `first_position` on.
struct Angles {
    Angles(const Heads& heads, Index first_position)
        : cosine(heads.rows, heads.half), sine(heads.rows, heads.half) {
        rotary_table(Stream<Cpu>(), {.first_position = first_position,
                                     .theta = 10000,
                                     .factor = 4,
                                     .cosine = cosine.view(),
                                     .sine = sine.view()});
    }

    Matrix cosine;
    Matrix sine;
};

}  // namespace

BOOST_AUTO_TEST_CASE_TEMPLATE(tables_agree_with_the_cpu, Device, Devices) {
    const Stream<Device> stream;
    for (const Heads& heads : cases) {
        const Angles expected(heads, 1234567);
        DeviceMatrix<Device, float> cosine(stream, heads.rows, heads.half, heads.place);
        DeviceMatrix<Device, float> sine(stream, heads.rows, heads.half, heads.place);
        rotary_table(stream, RotaryTable<Device>{.first_position = 1234567,
                                                 .theta = 10000,
                                                 .factor = 4,
                                                 .cosine = cosine.view(),
                                                 .sine = sine.view()});
        require_near("cosine", cosine.values(), expected.cosine.values<float>(), 2e-7);
        require_near("sine", sine.values(), expected.sine.values<float>(), 2e-7);
        BOOST_TEST(cosine.is_intact());
        BOOST_TEST(sine.is_intact());
    }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(turns_agree_with_the_cpu, Device, Devices) {
    using S = Element<Device>;
    const Stream<Device> stream;
    for (const Heads& heads : cases) {
        const Angles angles(heads, 100);
        Matrix expected = random_matrix<S>(21, heads.shape());
        const DeviceMatrix<Device, float> cosine(stream, angles.cosine);
        const DeviceMatrix<Device, float> sine(stream, angles.sine);
        DeviceMatrix<Device, S> x(stream, expected, heads.place);
        rope(stream, Rope<Device>{.x = x.view(), .cosine = cosine.view(), .sine = sine.view()});
        rope(Stream<Cpu>(),
             {.x = expected.view(), .cosine = angles.cosine.view(), .sine = angles.sine.view()});
        require_near("x", x.values(), expected.values<float>());
        BOOST_TEST(x.is_intact());
    }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(gradients_agree_with_the_cpu, Device, Devices) {
    using S = Element<Device>;
    const Stream<Device> stream;
    for (const Heads& heads : cases) {
        const Angles angles(heads, 100);
        const Matrix d_y = random_matrix<float>(22, heads.shape());
        Matrix expected(heads.rows, heads.shape().columns);
        rope_gradient(Stream<Cpu>(), {.d_y = d_y.view(),
                                      .cosine = angles.cosine.view(),
                                      .sine = angles.sine.view(),
                                      .d_x = expected.view()});
        const DeviceMatrix<Device, float> cosine(stream, angles.cosine);
        const DeviceMatrix<Device, float> sine(stream, angles.sine);
        DeviceMatrix<Device, float> from(stream, d_y, heads.place);
        DeviceMatrix<Device, S> d_x(stream, heads.shape());
        rope_gradient(stream, RopeGradient<Device>{.d_y = from.view(),
                                                   .cosine = cosine.view(),
                                                   .sine = sine.view(),
                                                   .d_x = d_x.view()});
        require_near("d_x", d_x.values(), expected.values<float>());
        BOOST_TEST(d_x.is_intact());
        if constexpr (std::is_same_v<S, float>) {
            rope_gradient(stream, RopeGradient<Device>{.d_y = from.view(),
                                                       .cosine = cosine.view(),
                                                       .sine = sine.view(),
                                                       .d_x = from.view()});
            BOOST_TEST((from.values() == d_x.values()));
            BOOST_TEST(from.is_intact());
        }
    }
}
