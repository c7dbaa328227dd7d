#include "kernels/random_normal.hpp"

#include "cuda/device_matrix.hpp"

using namespace longlora;
using namespace longlora::cuda_test;

namespace {

constexpr std::uint64_t key = 0x9e3779b97f4a7c15ULL;
constexpr double deviation = 0.02;

template <class Device, class T>
void draws_what_the_cpu_draws() {
    const Stream<Device> stream;
    for (const Index size : {0, 1, 255, 257, 70001}) {
        std::vector<float> expected(static_cast<std::size_t>(size));
        random_normal(Stream<Cpu>(), {.key = key,
                                      .deviation = deviation,
                                      .out = View<Cpu, float, 1>(expected.data(), size)});
        DeviceMatrix<Device, T> out(stream, 1, size);
        random_normal(
            stream, RandomNormal<Device, T>{.key = key, .deviation = deviation, .out = out.row()});
        require_near("random_normal", out.values(), expected, 1e-7);
        BOOST_TEST(out.is_intact());
    }
}

}  // namespace

BOOST_AUTO_TEST_CASE_TEMPLATE(random_numbers_are_the_cpus, Device, Devices) {
    draws_what_the_cpu_draws<Device, float>();
    draws_what_the_cpu_draws<Device, BFloat16>();
}

BOOST_AUTO_TEST_CASE(threads_change_nothing) {
    std::vector<float> one(50000);
    std::vector<float> four(50000);
    const auto draw = [](int threads, std::vector<float>& to) {
        random_normal(Stream<Cpu>(threads),
                      {.key = key,
                       .deviation = deviation,
                       .out = View<Cpu, float, 1>(to.data(), static_cast<Index>(to.size()))});
    };
    draw(1, one);
    draw(4, four);
    BOOST_TEST((one == four));
}
