#include "kernels/cross_entropy.hpp"

#include "reference/compare.hpp"
#include "reference/cross_entropy.hpp"

using namespace longlora;
using namespace longlora::reference;

namespace {

struct Shape {
    Index rows;
    Index vocabulary;
    Index gap;
};
const std::vector<Shape> shapes = {{1, 2, 0}, {7, 33, 3}, {33, 100, 0}, {3, 2500, 1}};

// Every third label is ignored.
std::vector<std::int32_t> labels_of(const Shape& shape) {
    std::vector<std::int32_t> labels;
    for (Index t = 0; t < shape.rows; ++t) {
        const auto label =
            static_cast<std::int32_t>(random_bits(40, static_cast<std::uint64_t>(t)) %
                                      static_cast<std::uint64_t>(shape.vocabulary));
        labels.push_back(t % 3 == 2 ? ignored_label : label);
    }
    return labels;
}

}  // namespace

BOOST_AUTO_TEST_CASE(loss_agrees_with_the_formula) {
    for (const Shape& shape : shapes) {
        Matrix logits = Matrix::random(41, shape.rows, shape.vocabulary, shape.gap);
        const std::vector<double> before = logits.values();
        const auto labels = labels_of(shape);
        std::vector<float> loss(labels.size());
        cross_entropy(Stream<Cpu>(2), {.logits = logits.view(),
                                       .labels = view(labels),
                                       .loss = view(loss),
                                       .scale = 1,
                                       .wants_gradient = false,
                                       .d_logits = {nullptr, 0, 0}});
        const auto expected = cross_entropy<double>(before, labels);
        const auto plain = cross_entropy<float>(convert<float>(before), labels);
        require_close("loss", loss, expected, earned_tolerance(plain, expected));
        BOOST_TEST(logits.values() == before);
    }
}

BOOST_AUTO_TEST_CASE(gradient_is_the_derivative) {
    using Complex = std::complex<double>;
    constexpr float scale = 0.0625F;
    for (const Shape& shape : shapes) {
        const Matrix logits = Matrix::random(42, shape.rows, shape.vocabulary, shape.gap);
        Matrix d_logits(shape.rows, shape.vocabulary, shape.gap + 2);
        const std::vector<double> z = logits.values();
        const auto labels = labels_of(shape);
        std::vector<float> loss(labels.size());
        cross_entropy(Stream<Cpu>(2), {.logits = logits.view(),
                                       .labels = view(labels),
                                       .loss = view(loss),
                                       .scale = scale,
                                       .wants_gradient = true,
                                       .d_logits = d_logits.view()});
        const auto expected_loss = cross_entropy<double>(z, labels);
        require_close("loss", loss, expected_loss, relative_tolerance(3e-7, expected_loss));
        BOOST_TEST(d_logits.gaps_are_intact());
        BOOST_TEST(logits.values() == z);

        // A row's loss depends on that row only; of a large row some entries are enough.
        const Index step = shape.vocabulary > 200 ? 61 : 1;
        std::vector<double> expected;
        std::vector<double> actual;
        for (Index t = 0; t < shape.rows; ++t) {
            const auto begin = z.begin() + t * shape.vocabulary;
            const std::vector<double> row(begin, begin + shape.vocabulary);
            const std::vector<std::int32_t> label = {labels[static_cast<std::size_t>(t)]};
            const auto scaled_loss = [&](const std::vector<Complex>& x) {
                return cross_entropy<Complex>(x, label)[0] * static_cast<double>(scale);
            };
            for (Index i = 0; i < shape.vocabulary; ++i) {
                if (i % step == 0 || i == label[0]) {
                    expected.push_back(derivative(scaled_loss, row, i));
                    actual.push_back(d_logits.view()(t, i));
                }
            }
        }
        require_close("d_logits", actual, expected, relative_tolerance(3e-7, expected));
    }
}

BOOST_AUTO_TEST_CASE(large_logits_do_not_overflow) {
    Matrix logits(1, 9);
    for (Index i = 0; i < 9; ++i) {
        logits.view()(0, i) = static_cast<float>(1000 * i);
    }
    const std::vector<std::int32_t> labels = {2};
    std::vector<float> loss(1);
    cross_entropy(Stream<Cpu>(), {.logits = logits.view(),
                                  .labels = view(labels),
                                  .loss = view(loss),
                                  .scale = 1,
                                  .wants_gradient = true,
                                  .d_logits = logits.view()});  // in place
    BOOST_TEST(loss[0] == 6000.0F);
    BOOST_TEST(logits.view()(0, 8) == 1.0F);
    BOOST_TEST(logits.view()(0, 2) == -1.0F);
    BOOST_TEST(logits.view()(0, 0) == 0.0F);
}

// In integers: the order does not matter, and what cannot be added is told.
BOOST_AUTO_TEST_CASE(losses_are_summed_exactly) {
    const std::vector<float> losses = {3.25F, 1e-3F, 0.0F, 65536.0F, 2.0F / 3};
    std::vector<std::int64_t> sum(2);
    loss_sum(Stream<Cpu>(), {.loss = view(losses), .sum = view(sum)});
    std::int64_t expected = 0;
    for (const float loss : losses) {
        expected += static_cast<std::int64_t>(std::nearbyint(static_cast<double>(loss) * 67108864));
    }
    BOOST_TEST(sum[0] == expected);
    BOOST_TEST(sum[1] == 0);
    const std::vector<float> bad = {std::nanf(""), 1.0F, std::numeric_limits<float>::infinity(),
                                    -1.0F, 65537.0F};
    loss_sum(Stream<Cpu>(), {.loss = view(bad), .sum = view(sum)});
    BOOST_TEST(sum[0] == expected + 67108864);
    BOOST_TEST(sum[1] == 4);
}
