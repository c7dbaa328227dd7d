#include "kernels/embedding.hpp"

#include "reference/compare.hpp"

using namespace longlora;
using namespace longlora::reference;

BOOST_AUTO_TEST_CASE(forward_copies_rows_and_backward_adds_them_in_token_order) {
    constexpr Index vocabulary = 11;
    for (const Index width : {Index{1}, Index{33}, Index{150}}) {
        const Matrix table = Matrix::random(50, vocabulary, width, 3);
        std::vector<std::int32_t> tokens;
        for (std::uint64_t t = 0; t < 77; ++t) {
            tokens.push_back(static_cast<std::int32_t>(random_bits(51, t) % vocabulary));
        }
        const auto count = static_cast<Index>(tokens.size());
        const Stream<Cpu> stream(2);
        Matrix x(count, width, 1);
        embedding_forward(stream, {.tokens = view(tokens), .table = table.view(), .x = x.view()});

        const Matrix d_x = Matrix::random(52, count, width, 2);
        Matrix d_table = Matrix::random(53, vocabulary, width, 5);
        Matrix expected = d_table;
        embedding_backward(stream,
                           {.tokens = view(tokens), .d_x = d_x.view(), .d_table = d_table.view()});

        bool is_copy = true;
        for (Index t = 0; t < count; ++t) {
            const Index token = tokens[static_cast<std::size_t>(t)];
            for (Index e = 0; e < width; ++e) {
                is_copy = is_copy && x.view()(t, e) == table.view()(token, e);
                expected.view()(token, e) += d_x.view()(t, e);
            }
        }
        BOOST_TEST(is_copy);
        BOOST_TEST(d_table.values() == expected.values());
        BOOST_TEST(x.gaps_are_intact());
        BOOST_TEST(d_table.gaps_are_intact());
    }
}
