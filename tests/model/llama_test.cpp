// Whole gradients: against differences of the loss, and the same on every layout.
#include <cmath>
#include <functional>

#include <boost/test/unit_test.hpp>

#include "model/tiny_model.hpp"
#include "support/gradient_sums.hpp"
#include "train/two_pass.hpp"

using namespace longlora;
using namespace longlora::test;

namespace {

constexpr Index length = 96;
constexpr std::uint64_t row_key = 31;

std::int32_t token(Index position, Index vocabulary) {
    return static_cast<std::int32_t>(random_bits(8, static_cast<std::uint64_t>(position)) %
                                     static_cast<std::uint64_t>(vocabulary));
}

bool is_ignored(Index position) { return position % 11 == 5; }

Index label_count() {
    Index count = 0;
    for (Index i = 0; i < length; ++i) {
        count += is_ignored(i) ? 0 : 1;
    }
    return count;
}

// The row that all tests train on; a part of its labels is ignored.
ReadTokens read_row(Index vocabulary) {
    return
        [vocabulary](Range range, std::span<std::int32_t> tokens, std::span<std::int32_t> labels) {
            for (Index i = 0; i < range.size(); ++i) {
                const Index position = range.begin + i;
                const auto place = static_cast<std::size_t>(i);
                tokens[place] = token(position, vocabulary);
                labels[place] = is_ignored(position) ? -100 : token(position + 1, vocabulary);
            }
        };
}

float scale() { return 1.0F / static_cast<float>(label_count()); }

struct Result {
    double loss;
    std::vector<float> gradients;  // flat, as in Parameters
};

// Loss and gradients of the row on the ranks of `comm`, in exactly the memory that was measured.
Result train(TinyModel& model, const Layout& layout, const KeptActivations& kept,
             const Communicator<Cpu>& comm) {
    const TwoPass<Cpu>::Shape shape{model.config, model.tune, layout, kept};
    auto measuring = Arena<Cpu>::measuring("test");
    TwoPass<Cpu>(measuring, shape, comm.rank());
    Arena<Cpu> arena("test", measuring.used());
    TwoPass<Cpu> pass(arena, shape, comm.rank());
    PhaseTimer timer;
    pass.connect(comm, timer);
    model.parameters.clear_gradients(Stream<Cpu>(), length);
    const auto loss =
        pass.run(model.llama, Stream<Cpu>(), {read_row(model.config.vocabulary), scale(), row_key},
                 [] { return false; });
    comm.all_reduce_sum(model.parameters.gradient_sums());
    return {comm.sum(loss.value()) / label_count(),
            gradient_values(model.parameters.gradient_sums())};
}

// The same without any partner: one rank, one chunk, everything kept.
Result train_alone(TinyModel& model, Layout layout) {
    const auto world = Communicator<Cpu>::world();
    const auto alone = world.split(world.rank(), 0);
    layout.ranks = 1;
    layout.chunks = 1;
    return train(model, layout, ActivationPolicy::keep, alone);
}

std::span<const float> tensor(const Parameter& parameter, const std::vector<float>& flat) {
    return {flat.data() + parameter.offset, static_cast<std::size_t>(parameter.shape.size())};
}

double norm(std::span<const float> values) {
    double sum = 0;
    for (const float value : values) {
        sum += static_cast<double>(value) * static_cast<double>(value);
    }
    return std::sqrt(sum);
}

double distance(std::span<const float> a, std::span<const float> b) {
    std::vector<float> difference(a.begin(), a.end());
    for (std::size_t i = 0; i < b.size(); ++i) {
        difference[i] -= b[i];
    }
    return norm(difference);
}

void require_same(const TinyModel& model, const Result& actual, const Result& expected,
                  const std::string& where) {
    BOOST_TEST(std::abs(actual.loss - expected.loss) <= 1e-6 * expected.loss,
               where << ": loss " << actual.loss << ", expected " << expected.loss);
    for (const Parameter& parameter : model.parameters.table()) {
        const auto reference = tensor(parameter, expected.gradients);
        const double error = distance(tensor(parameter, actual.gradients), reference);
        BOOST_TEST(error <= 1e-5 * norm(reference),
                   where << ": " << parameter.shape.name << " off by " << error / norm(reference));
    }
}

std::string name(const Layout& layout, ActivationPolicy policy) {
    return "G " + std::to_string(layout.group) + " P " + std::to_string(layout.ranks) + " C " +
           std::to_string(layout.chunks) + " pattern " +
           std::to_string(static_cast<int>(layout.pattern)) + " boundary " +
           std::to_string(static_cast<int>(layout.boundary)) + " policy " +
           std::to_string(static_cast<int>(policy));
}

using Policies = std::vector<ActivationPolicy>;

Policies every_policy() {
    return {ActivationPolicy::keep, ActivationPolicy::recompute_mlp,
            ActivationPolicy::recompute_layer};
}

// All policies in turn, where each alone was tested.
Policies next_policy() {
    static std::size_t count = 0;
    return {every_policy()[count++ % 3]};
}

// The row on all ranks in `chunks` chunks against one rank and one chunk.
void require_same_everywhere(TinyModel& model, const Layout& alone,
                             std::initializer_list<Index> chunks,
                             const std::function<Policies()>& policies = next_policy) {
    const auto world = Communicator<Cpu>::world();
    const Result expected = train_alone(model, alone);
    for (const Index count : chunks) {
        for (const ActivationPolicy policy : policies()) {
            Layout layout = alone;
            layout.ranks = world.size();
            layout.chunks = count;
            require_same(model, train(model, layout, policy, world), expected,
                         name(layout, policy));
        }
    }
}

Tune with(TuneMode mode, double dropout = 0) {
    Tune tune = tiny_tune();
    tune.mode = mode;
    tune.dropout = dropout;
    return tune;
}

LlamaConfig with_tied(bool is_tied) {
    LlamaConfig config = tiny_config();
    config.is_tied = is_tied;
    return config;
}

// d loss / d epsilon along `direction` for one tensor, by differences of the fourth order.
double slope(TinyModel& model, const Layout& layout, const Parameter& parameter,
             const std::vector<double>& direction) {
    constexpr double step = 0.004;
    const auto weights = model.parameters.weights().slice(
        {parameter.offset, parameter.offset + parameter.shape.size()});
    const std::vector<float> saved(weights.begin(), weights.end());
    const auto loss_at = [&](double epsilon) {
        for (std::size_t i = 0; i < saved.size(); ++i) {
            weights[static_cast<Index>(i)] = saved[i] + static_cast<float>(epsilon * direction[i]);
        }
        return train_alone(model, layout).loss;
    };
    const double near = loss_at(step) - loss_at(-step);
    const double far = loss_at(2 * step) - loss_at(-2 * step);
    std::copy(saved.begin(), saved.end(), weights.begin());
    return (8 * near - far) / (12 * step);
}

// Half the gradient, half at random, both of length 1: a wrong part of it shows, large or hidden.
std::vector<double> mixed_direction(std::span<const float> gradient, std::uint64_t key) {
    std::vector<double> direction;
    const double gradient_norm = norm(gradient);
    const double random_norm = std::sqrt(static_cast<double>(gradient.size()));
    for (std::size_t i = 0; i < gradient.size(); ++i) {
        direction.push_back(static_cast<double>(gradient[i]) / gradient_norm +
                            random_normal(key, i) / random_norm);
    }
    return direction;
}

void require_derivative(TinyModel& model, const Layout& layout) {
    const std::vector<float> gradients = train_alone(model, layout).gradients;
    for (const Parameter& parameter : model.parameters.table()) {
        const auto gradient = tensor(parameter, gradients);
        const auto direction =
            mixed_direction(gradient, static_cast<std::uint64_t>(parameter.offset));
        double expected = 0;
        for (std::size_t i = 0; i < gradient.size(); ++i) {
            expected += static_cast<double>(gradient[i]) * direction[i];
        }
        const double actual = slope(model, layout, parameter, direction);
        BOOST_TEST(
            std::abs(actual - expected) <= 1e-3 * norm(gradient) + 1e-5,
            parameter.shape.name << ": differences give " << actual << ", backward " << expected);
        BOOST_TEST(norm(gradient) > 1e-3,
                   parameter.shape.name << " has no gradient worth the test");
    }
}

bool is_alone() { return Communicator<Cpu>::world().size() == 1; }

}  // namespace

BOOST_AUTO_TEST_CASE(gradients_are_the_derivative_of_the_loss) {
    if (!is_alone()) {
        return;
    }
    for (const bool is_tied : {false, true}) {
        TinyModel model(with_tied(is_tied), with(TuneMode::lora_plus));
        require_derivative(model, {.length = length, .group = 16});
    }
}

BOOST_AUTO_TEST_CASE(gradients_are_the_derivative_when_everything_is_trained) {
    if (!is_alone()) {
        return;
    }
    for (const bool is_tied : {false, true}) {
        TinyModel model(with_tied(is_tied), with(TuneMode::full));
        require_derivative(model, {.length = length, .group = 32, .boundary = Boundary::wrap});
    }
}

BOOST_AUTO_TEST_CASE(gradients_are_the_derivative_with_dropout) {
    if (!is_alone()) {
        return;
    }
    TinyModel model(tiny_config(), with(TuneMode::lora, 0.3));
    require_derivative(model, {.length = length, .group = 16, .pattern = Pattern::full});
}

BOOST_AUTO_TEST_CASE(every_policy_and_number_of_chunks_gives_the_same_loss_and_gradients) {
    TinyModel model(tiny_config(), with(TuneMode::lora_plus));
    require_same_everywhere(model, {.length = length, .group = 16}, {1, 2, 4}, every_policy);
}

// Three tiles a layer, of which two stay in each or one; backward's tiles, of whole half-groups, straddle
// where they begin.
BOOST_AUTO_TEST_CASE(what_stays_of_gate_and_up_changes_no_bit) {
    if (!is_alone()) {
        return;
    }
    const auto world = Communicator<Cpu>::world();
    TinyModel model(tiny_config(), with(TuneMode::lora_plus));
    const Layout layout{.length = 2560, .group = 160};
    const Index layers = model.config.layers;
    const Result expected = train(model, layout, ActivationPolicy::keep, world);
    for (const Index tiles : {Index{0}, layers, 2 * layers - 1, 3 * layers}) {
        const Result actual = train(model, layout, {ActivationPolicy::recompute_mlp, tiles}, world);
        BOOST_TEST(actual.loss == expected.loss);
        BOOST_TEST((actual.gradients == expected.gradients), tiles << " tiles stay");
    }
}

// Groups of 16 (shards hold several, one, a part of one) and of 48 (longer than most shards).
BOOST_AUTO_TEST_CASE(every_layout_gives_the_same_loss_and_gradients) {
    TinyModel model(tiny_config(), with(TuneMode::lora_plus));
    for (const Index group : {16, 48}) {
        for (const Pattern pattern : {Pattern::s2, Pattern::local, Pattern::shifted}) {
            require_same_everywhere(model, {.length = length, .group = group, .pattern = pattern},
                                    {1, 2, 4});
        }
    }
}

BOOST_AUTO_TEST_CASE(full_attention_streams_by_the_same_schedule) {
    TinyModel model(tiny_config(), with(TuneMode::lora_plus));
    require_same_everywhere(model, {.length = length, .group = 16, .pattern = Pattern::full},
                            {1, 2, 4});
}

BOOST_AUTO_TEST_CASE(wrap_closes_the_ring_on_any_number_of_ranks) {
    TinyModel model(tiny_config(), with(TuneMode::lora_plus));
    for (const Index group : {16, 96}) {
        require_same_everywhere(
            model, {.length = length, .group = group, .boundary = Boundary::wrap}, {1});
    }
}

BOOST_AUTO_TEST_CASE(dropout_drops_the_same_on_every_layout) {
    TinyModel model(tiny_config(), with(TuneMode::lora_plus, 0.3));
    require_same_everywhere(model, {.length = length, .group = 16}, {1, 4});
}

BOOST_AUTO_TEST_CASE(every_mode_is_the_same_on_every_layout) {
    for (const TuneMode mode : {TuneMode::lora, TuneMode::full}) {
        for (const bool is_tied : {false, true}) {
            TinyModel model(with_tied(is_tied), with(mode));
            require_same_everywhere(model, {.length = length, .group = 16}, {2});
        }
    }
}

// lora trains less than lora_plus: what is left has the same gradient, bit for bit.
BOOST_AUTO_TEST_CASE(what_is_frozen_does_not_change_the_gradient_of_what_is_trained) {
    const Layout layout{.length = length, .group = 16};
    TinyModel plus(tiny_config(), with(TuneMode::lora_plus));
    TinyModel lora(tiny_config(), with(TuneMode::lora));
    for (const Parameter& parameter : lora.parameters.table()) {
        const auto from = plus.parameters.weight(parameter.shape.name).flat();
        std::copy(from.begin(), from.end(), lora.parameters.weight(parameter.shape.name).data());
    }
    train_alone(plus, layout);
    train_alone(lora, layout);
    for (const Parameter& parameter : lora.parameters.table()) {
        const auto a = plus.parameters.gradient(parameter.shape.name).sum.flat();
        const auto b = lora.parameters.gradient(parameter.shape.name).sum.flat();
        BOOST_TEST((std::equal(a.begin(), a.end(), b.begin())), parameter.shape.name);
    }
}

// Rows add up: a second run on the same row doubles every gradient.
BOOST_AUTO_TEST_CASE(gradients_of_rows_add_up) {
    const auto world = Communicator<Cpu>::world();
    TinyModel model(tiny_config(), with(TuneMode::lora_plus));
    const Layout layout{.length = length, .group = 16, .ranks = world.size(), .chunks = 4};
    Arena<Cpu> arena("test", 1 << 24);
    TwoPass<Cpu> pass(arena, {model.config, model.tune, layout, ActivationPolicy::recompute_mlp},
                      world.rank());
    PhaseTimer timer;
    pass.connect(world, timer);
    const auto run = [&] {
        pass.run(model.llama, Stream<Cpu>(), {read_row(model.config.vocabulary), scale(), row_key},
                 [] { return false; });
        return gradient_values(model.parameters.gradient_sums());
    };
    auto once = run();
    const auto twice = run();
    for (float& value : once) {
        value *= 2;
    }
    BOOST_TEST(distance(twice, once) <= 1e-6 * norm(once));
}

// Evaluation's forward keeps nothing and must find the loss of training.
BOOST_AUTO_TEST_CASE(a_forward_that_keeps_nothing_finds_the_same_loss) {
    const auto world = Communicator<Cpu>::world();
    TinyModel model(tiny_config(), with(TuneMode::lora_plus));
    for (const Pattern pattern : {Pattern::s2, Pattern::full}) {
        const Layout layout{
            .length = length, .group = 16, .ranks = world.size(), .pattern = pattern};
        const double expected = train_alone(model, layout).loss;
        Arena<Cpu> arena("test", 1 << 24);
        const LayerShape shape =
            layer_shape<Cpu>(model.config, model.tune, layout.shard_length(), false);
        const Activations<Cpu> activations(arena, shape, ActivationPolicy::keep);
        Scratch<Cpu> scratch(arena, shape);
        ContextExchange<Cpu> exchange(
            arena, {layout, {4, 2}, model.config.head_dim, model.config.layers, false},
            world.rank());
        PhaseTimer timer;
        exchange.connect(world, timer);
        exchange.begin_chunk(0, Pass::compute);

        std::vector<std::int32_t> tokens(static_cast<std::size_t>(layout.shard_length()));
        std::vector<std::int32_t> labels(tokens.size());
        read_row(model.config.vocabulary)(exchange.tokens(), tokens, labels);
        const ShardInput<Cpu> input{{tokens.data(), layout.shard_length()},
                                    {labels.data(), layout.shard_length()}};
        const Stream<Cpu> stream;
        LayerRun<Cpu> run{stream, scratch, {}, static_cast<float>(model.config.rms_epsilon)};
        model.llama.set_position(stream, scratch, exchange.tokens().begin);
        model.llama.forward_only(run, input, activations, exchange);
        const double loss = world.sum(model.llama.loss(
                                run, {activations.residual(), input.labels, scale(), false})) /
                            label_count();
        BOOST_TEST(std::abs(loss - expected) <= 1e-6 * expected);
    }
}
