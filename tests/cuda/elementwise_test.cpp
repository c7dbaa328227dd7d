#include "kernels/elementwise.hpp"

#include "cuda/device_matrix.hpp"

using namespace longlora;
using namespace longlora::cuda_test;

namespace {

template <class Device, class T>
void copy_keeps_every_bit() {
    const Stream<Device> stream;
    for (const Shape& shape : shapes) {
        const DeviceMatrix<Device, T> x(stream, random_matrix<float>(70, shape), shape.place);
        DeviceMatrix<Device, T> out(stream, shape);
        copy(stream, Copy<Device, T>{.x = x.view(), .out = out.view()});
        BOOST_TEST((out.values() == x.values()));
        BOOST_TEST(out.is_intact());
    }
}

template <class Device, class T>
void dropout_drops_what_the_cpu_drops(bool accumulate) {
    const Stream<Device> stream;
    for (const Shape& shape : shapes) {
        const Matrix x = random_matrix<T>(71, shape);
        Matrix expected = random_matrix<T>(72, shape);
        const DeviceMatrix<Device, T> from(stream, x, shape.place);
        DeviceMatrix<Device, T> out(stream, expected, shape.place);
        constexpr double probability = 0.3;
        constexpr std::uint64_t key = 0x123456789abcdefULL;
        constexpr Index first_row = 1000003;
        dropout(stream, Dropout<Device, T>{.x = from.view(),
                                           .out = out.view(),
                                           .probability = probability,
                                           .key = key,
                                           .first_row = first_row,
                                           .accumulate = accumulate});
        dropout(Stream<Cpu>(), Dropout<Cpu>{.x = x.view(),
                                            .out = expected.view(),
                                            .probability = probability,
                                            .key = key,
                                            .first_row = first_row,
                                            .accumulate = accumulate});
        const auto values = out.values();
        const auto wanted = expected.values<float>();
        require_near("dropout", values, wanted);
        Index differences = 0;
        for (std::size_t i = 0; i < values.size(); ++i) {
            differences += (to_float(values[i]) == 0) != (wanted[i] == 0) ? 1 : 0;
        }
        BOOST_TEST(differences == 0);
        BOOST_TEST(out.is_intact());
    }
}

}  // namespace

BOOST_AUTO_TEST_CASE_TEMPLATE(copies, Device, Devices) {
    copy_keeps_every_bit<Device, float>();
    copy_keeps_every_bit<Device, BFloat16>();
}

BOOST_AUTO_TEST_CASE_TEMPLATE(sums, Device, Devices) {
    const Stream<Device> stream;
    for (const Shape& shape : shapes) {
        const Matrix x = random_matrix<float>(73, shape);
        Matrix expected = random_matrix<float>(74, shape);
        const DeviceMatrix<Device, float> from(stream, x, shape.place);
        DeviceMatrix<Device, float> out(stream, expected, shape.place);
        accumulate(stream, Accumulate<Device, float>{.x = from.view(), .out = out.view()});
        accumulate(Stream<Cpu>(), Accumulate<Cpu, float>{.x = x.view(), .out = expected.view()});
        BOOST_TEST((out.values() == expected.values<float>()));
        BOOST_TEST(out.is_intact());
    }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(conversions, Device, Devices) {
    using S = Element<Device>;
    const Stream<Device> stream;
    for (const Shape& shape : shapes) {
        Matrix x = random_matrix<float>(75, shape);
        if (shape.rows > 0) {  // half of what bfloat16 resolves, and the largest float
            x.view()(0, 0) = std::bit_cast<float>(0x3F808000U);
            x.view()(shape.rows - 1, shape.columns - 1) = std::numeric_limits<float>::max();
        }
        DeviceMatrix<Device, float> from(stream, x, shape.place);
        DeviceMatrix<Device, S> out(stream, shape);
        convert(stream, Convert<Device>{.x = from.view(), .out = out.view()});
        const DeviceMatrix<Device, S> expected(stream, x);
        BOOST_TEST((out.values() == expected.values()));
        BOOST_TEST(out.is_intact());
        if constexpr (std::is_same_v<S, float>) {
            convert(stream, Convert<Device>{.x = from.view(), .out = from.view()});
            BOOST_TEST((from.values() == expected.values()));
        }
    }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(scaled_conversions, Device, Devices) {
    using S = Element<Device>;
    constexpr float scale = 1.7F;
    const Stream<Device> stream;
    for (const Shape& shape : shapes) {
        Matrix x = random_matrix<float>(77, shape);
        DeviceMatrix<Device, float> from(stream, x, shape.place);
        DeviceMatrix<Device, S> out(stream, shape);
        convert(stream, Convert<Device>{.x = from.view(), .out = out.view(), .scale = scale});
        convert(Stream<Cpu>(), {.x = x.view(), .out = x.view(), .scale = scale});
        const DeviceMatrix<Device, S> expected(stream, x);
        BOOST_TEST((out.values() == expected.values()));
        BOOST_TEST(out.is_intact());
    }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(dropout_overwrites, Device, Devices) {
    dropout_drops_what_the_cpu_drops<Device, float>(false);
    dropout_drops_what_the_cpu_drops<Device, BFloat16>(false);
}

BOOST_AUTO_TEST_CASE_TEMPLATE(dropout_accumulates, Device, Devices) {
    dropout_drops_what_the_cpu_drops<Device, float>(true);
    dropout_drops_what_the_cpu_drops<Device, BFloat16>(true);
}

// Also that a piece's sum does not depend on where it lies.
BOOST_AUTO_TEST_CASE_TEMPLATE(squares_of_pieces, Device, Devices) {
    const Stream<Device> stream;
    for (const Index size : {Index{0}, Index{1}, Index{128}, Index{4099}, Index{30004}}) {
        for (const Index piece : {Index{128}, Index{4096}, Index{131}}) {
            const std::vector<float> x = reference::random_vector(76, size);
            std::vector<double> expected(static_cast<std::size_t>(ceil_div(size, piece)));
            squared_norms(
                Stream<Cpu>(),
                {.x = reference::view(x), .piece = piece, .squares = reference::view(expected)});
            std::vector<double> first;
            for (const Index lead : {Index{0}, Index{1}}) {
                const DeviceMatrix<Device, float> from(stream, x, {0, lead});
                DeviceMatrix<Device, double> squares(stream, 1, ceil_div(size, piece));
                squared_norms(stream,
                              SquaredNorms<Device>{
                                  .x = from.row(), .piece = piece, .squares = squares.row()});
                const std::vector<double> values = squares.values();
                Index wrong = 0;
                for (std::size_t i = 0; i < values.size(); ++i) {
                    wrong += std::abs(values[i] - expected[i]) <= 1e-14 * expected[i] ? 0 : 1;
                }
                BOOST_TEST(wrong == 0);
                BOOST_TEST(squares.is_intact());
                BOOST_TEST((lead == 0 || values == first));
                first = values;
            }
        }
    }
    const std::vector<float> bad = {1, std::numeric_limits<float>::quiet_NaN(), 2};
    const DeviceMatrix<Device, float> from(stream, bad);
    DeviceMatrix<Device, double> squares(stream, std::vector<double>{0});
    squared_norms(stream,
                  SquaredNorms<Device>{.x = from.row(), .piece = 3, .squares = squares.row()});
    BOOST_TEST(std::isnan(squares.values()[0]));
}
