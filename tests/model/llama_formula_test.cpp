// Loss and every gradient against the formulas in double, the gradients by the complex-step
// derivative.
#include <boost/test/unit_test.hpp>

#include "model/reference_llama.hpp"
#include "support/gradient_sums.hpp"
#include "train/two_pass.hpp"

using namespace longlora;
using namespace longlora::test;

namespace {

constexpr Index length = 48;

// One row: tokens at random, some of them twice; every seventh label is ignored.
struct Row {
    explicit Row(Index vocabulary) {
        for (Index i = 0; i <= length; ++i) {
            const auto bits = random_bits(3, static_cast<std::uint64_t>(i));
            tokens.push_back(
                static_cast<std::int32_t>(bits % static_cast<std::uint64_t>(vocabulary)));
        }
        for (Index i = 0; i < length; ++i) {
            labels.push_back(i % 7 == 3 ? -100 : tokens[static_cast<std::size_t>(i + 1)]);
            count += i % 7 == 3 ? 0 : 1;
        }
        tokens.pop_back();
    }

    ReadTokens reader() const {
        return [this](Range range, std::span<std::int32_t> t, std::span<std::int32_t> l) {
            std::copy_n(tokens.begin() + range.begin, range.size(), t.begin());
            std::copy_n(labels.begin() + range.begin, range.size(), l.begin());
        };
    }

    std::vector<std::int32_t> tokens;
    std::vector<std::int32_t> labels;
    Index count = 0;
};

double train(TinyModel& model, const Layout& layout, const Row& row) {
    Arena<Cpu> arena("test", 1 << 24);
    TwoPass<Cpu> pass(arena, {model.config, model.tune, layout, ActivationPolicy::recompute_layer},
                      0);
    const auto world = Communicator<Cpu>::world();
    PhaseTimer timer;
    pass.connect(world, timer);
    model.parameters.clear_gradients(Stream<Cpu>(), length);
    const float scale = 1.0F / static_cast<float>(row.count);
    const auto sum =
        pass.run(model.llama, Stream<Cpu>(), {row.reader(), scale, 0}, [] { return false; });
    return sum.value() / static_cast<double>(row.count);
}

std::vector<double> random_direction(Index size, std::uint64_t key) {
    std::vector<double> direction;
    for (Index i = 0; i < size; ++i) {
        direction.push_back(random_normal(key, static_cast<std::uint64_t>(i)));
    }
    return direction;
}

using Complex = std::complex<double>;

// d loss / d epsilon where the tensor moves by epsilon direction.
double slope(const TinyModel& model, const Layout& layout, const Row& row, Tensors<Complex> tensors,
             const std::string& name, const std::vector<double>& direction) {
    constexpr double step = 1e-30;
    auto& values = tensors.at(name);
    for (std::size_t i = 0; i < values.size(); ++i) {
        values[i] += Complex(0, step * direction[i]);
    }
    const ReferenceLlama<Complex> reference(model.config, model.tune, layout, std::move(tensors));
    return reference.loss(row.tokens, row.labels).imag() / step / static_cast<double>(row.count);
}

// Two random directions for each tensor.
void require_gradients(TinyModel& model, const Layout& layout, const Row& row,
                       const std::string& where) {
    const auto tensors = tensors_of<Complex>(model);
    for (const Parameter& parameter : model.parameters.table()) {
        const std::string& name = parameter.shape.name;
        const auto gradient = gradient_values(model.parameters.gradient(name).sum.flat());
        for (const std::uint64_t key : {1, 2}) {
            const auto direction = random_direction(parameter.shape.size(), key);
            double actual = 0;
            double squares = 0;
            for (std::size_t i = 0; i < gradient.size(); ++i) {
                const auto g = static_cast<double>(gradient[i]);
                actual += g * direction[i];
                squares += g * g;
            }
            const double expected = slope(model, layout, row, tensors, name, direction);
            BOOST_TEST(std::abs(actual - expected) <= 1e-4 * std::sqrt(squares),
                       where << ": " << name << ": backward gives " << actual << ", the formulas "
                             << expected);
        }
    }
}

struct Case {
    std::string name;
    Index heads;
    Index kv_heads;
    bool is_tied;
    double rope_factor;
    TuneMode mode;
    Layout layout;
};

// Patterns and boundaries; grouped, single and odd numbers of heads; one chunk and several.
const std::vector<Case> cases = {
    {"s2", 4, 2, false, 1, TuneMode::lora_plus, {.length = length, .group = 16}},
    {"s2, chunks",
     4,
     2,
     true,
     8,
     TuneMode::lora_plus,
     {.length = length, .group = 16, .chunks = 3}},
    {"s2, wrap",
     3,
     1,
     false,
     8,
     TuneMode::lora_plus,
     {.length = length, .group = 16, .boundary = Boundary::wrap}},
    {"s2, odd heads", 9, 3, true, 1, TuneMode::full, {.length = length, .group = 8, .chunks = 2}},
    {"local",
     4,
     1,
     false,
     1,
     TuneMode::lora,
     {.length = length, .group = 16, .chunks = 4, .pattern = Pattern::local}},
    {"shifted",
     4,
     4,
     false,
     2,
     TuneMode::lora_plus,
     {.length = length, .group = 32, .pattern = Pattern::shifted}},
    {"full",
     4,
     2,
     false,
     1,
     TuneMode::full,
     {.length = length, .group = 16, .chunks = 4, .pattern = Pattern::full}},
};

}  // namespace

BOOST_AUTO_TEST_CASE(loss_and_gradients_follow_the_formulas) {
    for (const Case& c : cases) {
        LlamaConfig config = tiny_config();
        config.heads = c.heads;
        config.kv_heads = c.kv_heads;
        config.is_tied = c.is_tied;
        Tune tune = tiny_tune();
        tune.mode = c.mode;
        config.rope = {"linear", c.rope_factor};
        TinyModel model(config, tune);
        const Row row(config.vocabulary);
        const double actual = train(model, c.layout, row);
        const ReferenceLlama<double> reference(model.config, tune, c.layout,
                                               tensors_of<double>(model));
        const double expected =
            reference.loss(row.tokens, row.labels) / static_cast<double>(row.count);
        BOOST_TEST(std::abs(actual - expected) <= 1e-6 * expected,
                   c.name << ": loss " << actual << ", by the formulas " << expected);
        require_gradients(model, c.layout, row, c.name);
    }
}
