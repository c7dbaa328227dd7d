#include "kernels/embedding.hpp"

#include "cuda/device_matrix.hpp"

using namespace longlora;
using namespace longlora::cuda_test;

BOOST_AUTO_TEST_CASE_TEMPLATE(forward_copies_rows, Device, Devices) {
    constexpr Index vocabulary = 11;
    const Stream<Device> stream;
    for (const Shape& shape : shapes) {
        const Matrix table = Matrix::random(50, vocabulary, shape.columns);
        std::vector<std::int32_t> tokens;
        for (Index t = 0; t < shape.rows; ++t) {
            const std::uint64_t bits = random_bits(51, static_cast<std::uint64_t>(t));
            tokens.push_back(static_cast<std::int32_t>(bits % vocabulary));
        }
        Matrix expected(shape.rows, shape.columns);
        embedding_forward(Stream<Cpu>(), {.tokens = reference::view(std::as_const(tokens)),
                                          .table = table.view(),
                                          .x = expected.view()});
        const DeviceMatrix<Device, std::int32_t> ids(stream, tokens);
        const DeviceMatrix<Device, float> weights(stream, table, shape.place);
        DeviceMatrix<Device, float> x(stream, shape);
        embedding_forward(stream, EmbeddingForward<Device>{
                                      .tokens = ids.row(), .table = weights.view(), .x = x.view()});
        BOOST_TEST((x.values() == expected.values<float>()));
        BOOST_TEST(x.is_intact());
    }
}
