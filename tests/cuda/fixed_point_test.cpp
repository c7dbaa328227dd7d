// Integers, so everything is the CPU's to the last bit.
#include "kernels/fixed_point.hpp"

#include "cuda/device_matrix.hpp"

using namespace longlora;
using namespace longlora::cuda_test;

namespace {

constexpr float limit = 16384;

// Magnitudes from below the resolution to above a thousand, halves of the last unit among them, and
// some that are refused.
std::vector<float> wide_values(std::uint64_t key, Index size) {
    std::vector<float> values;
    for (Index i = 0; i < size; ++i) {
        const auto exponent =
            static_cast<int>(random_bits(key, static_cast<std::uint64_t>(i)) % 64);
        const float x = Matrix::uniform(key + 1, i);
        values.push_back(std::ldexp(i % 3 == 0 ? std::copysign(1.5F, x) : x, exponent - 52));
    }
    const float infinity = std::numeric_limits<float>::infinity();
    const std::vector<float> special = {
        limit,    -limit,    std::nextafter(limit, infinity),
        infinity, -infinity, std::numeric_limits<float>::quiet_NaN()};
    for (std::size_t i = 0; 7 * i + 5 < values.size() && i < special.size(); ++i) {
        values[7 * i + 5] = special[i];
    }
    return values;
}

std::vector<std::int64_t> start_of(Index size) {
    std::vector<std::int64_t> sums;
    for (Index i = 0; i < size; ++i) {
        sums.push_back(static_cast<std::int64_t>(random_bits(79, static_cast<std::uint64_t>(i))) >>
                       8);
    }
    return sums;
}

}  // namespace

BOOST_AUTO_TEST_CASE_TEMPLATE(addends_are_the_cpus, Device, Devices) {
    const Stream<Device> stream;
    for (const Index size : {Index{0}, Index{1}, Index{64}, Index{4100}, Index{40007}}) {
        const std::vector<float> x = wide_values(62, size);
        std::vector<std::int64_t> sum = start_of(size);
        std::vector<std::int64_t> refused = {2};
        const DeviceMatrix<Device, float> addends(stream, x);
        DeviceMatrix<Device, std::int64_t> sums(stream, sum);
        DeviceMatrix<Device, std::int64_t> refusals(stream, refused);
        fixed_point_add(stream, FixedPointAdd<Device>{.x = addends.row(),
                                                      .sum = sums.row(),
                                                      .largest = limit,
                                                      .refused = refusals.row()});
        fixed_point_add(Stream<Cpu>(), {.x = reference::view(x),
                                        .sum = reference::view(sum),
                                        .largest = limit,
                                        .refused = reference::view(refused)});
        BOOST_TEST((sums.values() == sum));
        BOOST_TEST((refusals.values() == refused));
        BOOST_TEST((size < 64 || refused[0] == 2 + 4));
        BOOST_TEST(sums.is_intact());
        BOOST_TEST(refusals.is_intact());
    }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(values_are_the_cpus, Device, Devices) {
    const Stream<Device> stream;
    for (const Index size : {Index{0}, Index{1}, Index{5003}}) {
        const std::vector<std::int64_t> sum = start_of(size);
        std::vector<float> expected(sum.size());
        fixed_point_value(Stream<Cpu>(),
                          {.sum = reference::view(sum), .out = reference::view(expected)});
        const DeviceMatrix<Device, std::int64_t> sums(stream, sum);
        DeviceMatrix<Device, float> out(stream, 1, size);
        fixed_point_value(stream, FixedPointValue<Device>{.sum = sums.row(), .out = out.row()});
        BOOST_TEST((out.values() == expected));
        BOOST_TEST(out.is_intact());
    }
}

// A few tokens that are the same again and again.
BOOST_AUTO_TEST_CASE_TEMPLATE(an_embeddings_gradient_is_the_cpus, Device, Devices) {
    constexpr Index vocabulary = 11;
    const Stream<Device> stream;
    for (const Shape& shape : shapes) {
        std::vector<std::int32_t> tokens;
        for (Index t = 0; t < shape.rows; ++t) {
            const std::uint64_t bits = random_bits(51, static_cast<std::uint64_t>(t));
            tokens.push_back(static_cast<std::int32_t>(bits % vocabulary));
        }
        Matrix d_x = random_matrix<float>(52, shape);
        if (shape.rows > 0) {
            d_x.view()(shape.rows / 2, shape.columns / 2) = 2 * limit;
        }
        std::vector<std::int64_t> sum = start_of(vocabulary * shape.columns);
        std::vector<std::int64_t> refused = {0};
        const DeviceMatrix<Device, std::int32_t> ids(stream, tokens);
        const DeviceMatrix<Device, float> addends(stream, d_x, shape.place);
        DeviceMatrix<Device, std::int64_t> sums(stream, sum);
        DeviceMatrix<Device, std::int64_t> refusals(stream, refused);
        embedding_gradient(
            stream, EmbeddingGradient<Device>{.tokens = ids.row(),
                                              .d_x = addends.view(),
                                              .sum = {sums.row().data(), vocabulary, shape.columns},
                                              .largest = limit,
                                              .refused = refusals.row()});
        embedding_gradient(Stream<Cpu>(), {.tokens = reference::view(std::as_const(tokens)),
                                           .d_x = d_x.view(),
                                           .sum = {sum.data(), vocabulary, shape.columns},
                                           .largest = limit,
                                           .refused = reference::view(refused)});
        BOOST_TEST((sums.values() == sum));
        BOOST_TEST((refusals.values() == refused));
        BOOST_TEST(sums.is_intact());
    }
}
