#include "kernels/adamw.hpp"

#include "reference/adamw.hpp"
#include "reference/compare.hpp"

using namespace longlora;
using namespace longlora::reference;

// Several steps, so that moments of earlier steps and both corrections count.
BOOST_AUTO_TEST_CASE(steps_agree_with_the_formula) {
    const AdamwSettings settings{.learning_rate = 1e-2,
                                 .beta1 = 0.9,
                                 .beta2 = 0.95,
                                 .epsilon = 1e-8,
                                 .weight_decay = 0.1,
                                 .gradient_scale = 0.37};
    for (const Index size : {Index{1}, Index{33}, Index{70000}}) {
        const auto n = static_cast<std::size_t>(size);
        std::vector<float> weight = random_vector(60, size);
        std::vector<float> first(n);
        std::vector<float> second(n);
        AdamwState<double> exact{convert<double>(weight), std::vector<double>(n),
                                 std::vector<double>(n)};
        AdamwState<float> plain{weight, std::vector<float>(n), std::vector<float>(n)};
        for (int step = 1; step <= 4; ++step) {
            const auto key = static_cast<std::uint64_t>(60 + step);
            const std::vector<float> gradient = random_vector(key, size);
            longlora::adamw_step(Stream<Cpu>(2), {.weight = view(weight),
                                                  .gradient = view(gradient),
                                                  .first_moment = view(first),
                                                  .second_moment = view(second),
                                                  .learning_rate = settings.learning_rate,
                                                  .beta1 = settings.beta1,
                                                  .beta2 = settings.beta2,
                                                  .epsilon = settings.epsilon,
                                                  .weight_decay = settings.weight_decay,
                                                  .gradient_scale = settings.gradient_scale,
                                                  .step = step});
            reference::adamw_step<double>(settings, step, convert<double>(gradient), exact);
            reference::adamw_step<float>(settings, step, gradient, plain);
        }
        require_close("weight", weight, exact.weight, earned_tolerance(plain.weight, exact.weight));
        require_close("m", first, exact.first_moment,
                      earned_tolerance(plain.first_moment, exact.first_moment));
        require_close("v", second, exact.second_moment,
                      earned_tolerance(plain.second_moment, exact.second_moment));
    }
}
