#include "kernels/swiglu.hpp"

#include "cuda/device_matrix.hpp"

using namespace longlora;
using namespace longlora::cuda_test;

BOOST_AUTO_TEST_CASE_TEMPLATE(forward_agrees_with_the_cpu, Device, Devices) {
    using S = Element<Device>;
    const Stream<Device> stream;
    for (const Shape& shape : shapes) {
        const Matrix gate = random_matrix<S>(30, shape);
        const Matrix up = random_matrix<S>(31, shape);
        Matrix expected(shape.rows, shape.columns);
        swiglu_forward(Stream<Cpu>(),
                       {.gate = gate.view(), .up = up.view(), .out = expected.view()});
        const DeviceMatrix<Device, S> gates(stream, gate, shape.place);
        const DeviceMatrix<Device, S> ups(stream, up, shape.place);
        DeviceMatrix<Device, S> out(stream, shape);
        swiglu_forward(stream, SwigluForward<Device>{
                                   .gate = gates.view(), .up = ups.view(), .out = out.view()});
        require_near("out", out.values(), expected.values<float>());
        BOOST_TEST(out.is_intact());
    }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(far_values_saturate, Device, Devices) {
    using S = Element<Device>;
    const Stream<Device> stream;
    const std::vector<float> far = {-1e4, -200, -90, -30, 0, 30, 90, 200, 1e4};
    const std::vector<float> wanted = {0, 0, 0, 0, 0, 30, 90, 200, 1e4};
    std::vector<S> gates;
    for (const float x : far) {
        gates.push_back(to_element<S>(x));
    }
    gates.push_back(to_element<S>(std::numeric_limits<float>::quiet_NaN()));
    const DeviceMatrix<Device, S> gate(stream, gates);
    const DeviceMatrix<Device, S> up(stream, std::vector<S>(gates.size(), to_element<S>(1)));
    DeviceMatrix<Device, S> out(stream, 1, static_cast<Index>(gates.size()));
    swiglu_forward(stream,
                   SwigluForward<Device>{.gate = gate.view(), .up = up.view(), .out = out.view()});
    const std::vector<float> values = floats(out.values());
    for (std::size_t i = 0; i < far.size(); ++i) {
        BOOST_TEST(std::abs(values[i] - wanted[i]) <= 0x1.0p-8F * std::abs(wanted[i]) + 1e-11F);
    }
    BOOST_TEST(std::isnan(values.back()));
}

BOOST_AUTO_TEST_CASE_TEMPLATE(backward_agrees_with_the_cpu, Device, Devices) {
    using S = Element<Device>;
    const Stream<Device> stream;
    for (const Shape& shape : shapes) {
        for (const bool is_in_place : {false, true}) {
            const Matrix d_out = random_matrix<float>(32, shape);
            const Matrix gate = random_matrix<S>(33, shape);
            const Matrix up = random_matrix<S>(34, shape);
            Matrix d_gate(shape.rows, shape.columns);
            Matrix d_up(shape.rows, shape.columns);
            swiglu_backward(Stream<Cpu>(), {.d_out = d_out.view(),
                                            .gate = gate.view(),
                                            .up = up.view(),
                                            .d_gate = d_gate.view(),
                                            .d_up = d_up.view()});
            const DeviceMatrix<Device, float> d_outs(stream, d_out, shape.place);
            DeviceMatrix<Device, S> gates(stream, gate, shape.place);
            DeviceMatrix<Device, S> ups(stream, up, shape.place);
            DeviceMatrix<Device, S> d_gates(stream, shape);
            DeviceMatrix<Device, S> d_ups(stream, shape);
            auto& gate_result = is_in_place ? gates : d_gates;
            auto& up_result = is_in_place ? ups : d_ups;
            swiglu_backward(stream, SwigluBackward<Device>{.d_out = d_outs.view(),
                                                           .gate = gates.view(),
                                                           .up = ups.view(),
                                                           .d_gate = gate_result.view(),
                                                           .d_up = up_result.view()});
            require_near("d_gate", gate_result.values(), d_gate.values<float>());
            require_near("d_up", up_result.values(), d_up.values<float>());
            BOOST_TEST(gate_result.is_intact());
            BOOST_TEST(up_result.is_intact());
        }
    }
}
