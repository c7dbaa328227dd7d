#include "kernels/adamw.hpp"

#include "cuda/device_matrix.hpp"

using namespace longlora;
using namespace longlora::cuda_test;

namespace {

template <class Device>
struct State {
    View<Device, float, 1> weight;
    View<Device, float, 1> first;
    View<Device, float, 1> second;
};

template <class Device>
void step(const Stream<Device>& stream, View<Device, const float, 1> gradient,
          const State<Device>& state, Index number) {
    adamw_step(stream, AdamwStep<Device>{.weight = state.weight,
                                         .gradient = gradient,
                                         .first_moment = state.first,
                                         .second_moment = state.second,
                                         .learning_rate = 1e-2,
                                         .beta1 = 0.9,
                                         .beta2 = 0.95,
                                         .epsilon = 1e-8,
                                         .weight_decay = 0.1,
                                         .gradient_scale = 0.37,
                                         .step = number});
}

}  // namespace

// Several steps, so that moments of earlier steps and both corrections count.
BOOST_AUTO_TEST_CASE_TEMPLATE(steps_agree_with_the_cpu, Device, Devices) {
    const Stream<Device> stream;
    for (const Index size : {Index{0}, Index{1}, Index{129}, Index{4100}, Index{70001}}) {
        for (const Index lead : {Index{0}, Index{1}}) {
            std::vector<float> weight = reference::random_vector(60, size);
            std::vector<float> first(weight.size());
            std::vector<float> second(weight.size());
            DeviceMatrix<Device, float> weights(stream, weight, {0, lead});
            DeviceMatrix<Device, float> firsts(stream, first, {0, lead});
            DeviceMatrix<Device, float> seconds(stream, second, {0, lead});
            for (Index number = 1; number <= 3; ++number) {
                const auto key = static_cast<std::uint64_t>(60 + number);
                const std::vector<float> gradient = reference::random_vector(key, size);
                const DeviceMatrix<Device, float> gradients(stream, gradient, {0, lead});
                step<Device>(stream, gradients.row(), {weights.row(), firsts.row(), seconds.row()},
                             number);
                step<Cpu>(
                    Stream<Cpu>(), reference::view(gradient),
                    {reference::view(weight), reference::view(first), reference::view(second)},
                    number);
            }
            require_near("weight", weights.values(), weight, 1e-6);
            require_near("first moment", firsts.values(), first, 1e-6);
            require_near("second moment", seconds.values(), second, 1e-6);
            BOOST_TEST(weights.is_intact());
            BOOST_TEST(firsts.is_intact());
            BOOST_TEST(seconds.is_intact());
        }
    }
}
