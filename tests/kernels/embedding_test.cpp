#include "kernels/embedding.hpp"

#include "reference/compare.hpp"

using namespace longlora;
using namespace longlora::reference;

BOOST_AUTO_TEST_CASE(forward_copies_rows) {
    constexpr Index vocabulary = 11;
    for (const Index width : {Index{1}, Index{33}, Index{150}}) {
        const Matrix table = Matrix::random(50, vocabulary, width, 3);
        std::vector<std::int32_t> tokens;
        for (std::uint64_t t = 0; t < 77; ++t) {
            tokens.push_back(static_cast<std::int32_t>(random_bits(51, t) % vocabulary));
        }
        const auto count = static_cast<Index>(tokens.size());
        Matrix x(count, width, 1);
        embedding_forward(Stream<Cpu>(2),
                          {.tokens = view(tokens), .table = table.view(), .x = x.view()});
        bool is_copy = true;
        for (Index t = 0; t < count; ++t) {
            const Index token = tokens[static_cast<std::size_t>(t)];
            for (Index e = 0; e < width; ++e) {
                is_copy = is_copy && x.view()(t, e) == table.view()(token, e);
            }
        }
        BOOST_TEST(is_copy);
        BOOST_TEST(x.gaps_are_intact());
    }
}
