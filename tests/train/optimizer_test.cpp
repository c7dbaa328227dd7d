// AdamW with sharded moments against the formulas in double, written out for one flat array.
#include "train/optimizer.hpp"

#include <cmath>

#include <boost/test/unit_test.hpp>

#include "core/random.hpp"
#include "support/gradient_sums.hpp"

using namespace longlora;

namespace {

// Matrices and vectors of sizes that leave padding, longer in all than one piece of the norm.
std::vector<Parameter> table() {
    return {{{"a", 70, 61}, 0, true}, {{"b", 13, 0}, 4272, false}, {{"c", 5, 977}, 4288, true}};
}

struct Expected {
    std::vector<double> weight, first, second;
};

double gradient_of(Index rank, Index step, Index element) {
    return random_normal(static_cast<std::uint64_t>(100 * rank + step),
                         static_cast<std::uint64_t>(element));
}

bool is_padding(Index element) {
    for (const Parameter& parameter : table()) {
        if (element >= parameter.offset && element < parameter.offset + parameter.shape.size()) {
            return false;
        }
    }
    return true;
}

bool decays(Index element) { return element < 4270 || element >= 4288; }

double summed(Index ranks, Index step, Index element) {
    double sum = 0;
    for (Index rank = 0; rank < ranks && !is_padding(element); ++rank) {
        sum += gradient_of(rank, step, element);
    }
    return sum;
}

double norm_of(Index ranks, Index step, Index size) {
    double squares = 0;
    for (Index i = 0; i < size; ++i) {
        squares += summed(ranks, step, i) * summed(ranks, step, i);
    }
    return std::sqrt(squares);
}

void expect_step(Expected& state, const Options::Train& train, Index ranks, Index step,
                 double rate) {
    const auto size = static_cast<Index>(state.weight.size());
    const double clip = std::min(1.0, train.clip_norm / (norm_of(ranks, step, size) + 1e-6));
    for (Index i = 0; i < size; ++i) {
        const auto place = static_cast<std::size_t>(i);
        const double g = clip * summed(ranks, step, i);
        state.first[place] = train.beta1 * state.first[place] + (1 - train.beta1) * g;
        state.second[place] = train.beta2 * state.second[place] + (1 - train.beta2) * g * g;
        const double first = state.first[place] / (1 - std::pow(train.beta1, step));
        const double second = state.second[place] / (1 - std::pow(train.beta2, step));
        const double decay = decays(i) ? train.weight_decay * state.weight[place] : 0;
        state.weight[place] -= rate * (first / (std::sqrt(second) + train.epsilon) + decay);
    }
}

void fill_gradients(Parameters<Cpu>& parameters, Index rank, Index step) {
    parameters.clear_gradients(Stream<Cpu>(), 1);
    for (Index i = 0; i < parameters.size(); ++i) {
        parameters.gradient_sums()[i] =
            is_padding(i) ? 0 : test::fixed_point(static_cast<float>(gradient_of(rank, step, i)));
    }
}

}  // namespace

BOOST_AUTO_TEST_CASE(three_steps_as_the_formulas_say_on_every_rank) {
    const auto world = Communicator<Cpu>::world();
    Parameters<Cpu> parameters(table());
    Optimizer<Cpu> optimizer(parameters, world);
    const Stream<Cpu> stream;
    PhaseTimer timer;
    Options::Train train;
    train.learning_rate = 1e-2;
    train.warmup_steps = 2;
    train.weight_decay = 0.1;
    train.clip_norm = 50;
    const auto size = static_cast<std::size_t>(parameters.size());
    Expected expected{std::vector<double>(size), std::vector<double>(size),
                      std::vector<double>(size)};
    for (Index i = 0; i < parameters.size(); ++i) {
        const double start = is_padding(i) ? 0 : random_normal(7, static_cast<std::uint64_t>(i));
        parameters.weights()[i] = static_cast<float>(start);
        expected.weight[static_cast<std::size_t>(i)] = static_cast<double>(parameters.weights()[i]);
    }
    for (Index step = 1; step <= 3; ++step) {
        fill_gradients(parameters, world.rank(), step);
        const double norm = optimizer.reduce(parameters, stream, timer);
        BOOST_TEST(norm == norm_of(world.size(), step, parameters.size()),
                   boost::test_tools::tolerance(1e-6));
        optimizer.step(parameters, stream, train, {step, norm}, timer);
        expect_step(expected, train, world.size(), step, step == 1 ? 5e-3 : 1e-2);
    }
    double worst = 0;
    for (Index i = 0; i < parameters.size(); ++i) {
        worst = std::max(worst, std::abs(static_cast<double>(parameters.weights()[i]) -
                                         expected.weight[static_cast<std::size_t>(i)]));
    }
    BOOST_TEST(worst < 1e-6);
}

// 8 bytes of moments a trainable, shared by all ranks, plus one piece at most.
BOOST_AUTO_TEST_CASE(moments_are_shared_out) {
    const auto world = Communicator<Cpu>::world();
    const Parameters<Cpu> parameters(table());
    Optimizer<Cpu> optimizer(parameters, world);
    const Index share = parameters.size() / world.size() + 4096;
    BOOST_TEST(optimizer.first_moment().size() <= share);
    BOOST_TEST(optimizer.first_moment().size() == optimizer.range().size());
    BOOST_TEST(optimizer.second_moment().size() == optimizer.range().size());
    BOOST_TEST(world.sum(optimizer.range().size()) == parameters.size());
}

BOOST_AUTO_TEST_CASE(a_refused_addend_shows_in_the_norm_of_every_rank) {
    const auto world = Communicator<Cpu>::world();
    Parameters<Cpu> parameters(table());
    Optimizer<Cpu> optimizer(parameters, world);
    PhaseTimer timer;
    fill_gradients(parameters, world.rank(), 1);
    if (world.rank() == world.size() - 1) {
        parameters.refused()[0] = 1;
    }
    BOOST_TEST(!std::isfinite(optimizer.reduce(parameters, Stream<Cpu>(), timer)));
}
