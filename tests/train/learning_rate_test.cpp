#include "train/learning_rate.hpp"

#include <boost/test/unit_test.hpp>

using namespace longlora;

namespace {

Options::Train settings(choice::Schedule schedule) {
    Options::Train train;
    train.learning_rate = 2e-5;
    train.warmup_steps = 20;
    train.steps = 120;
    train.schedule = schedule;
    return train;
}

}  // namespace

BOOST_AUTO_TEST_CASE(warm_up_is_linear_and_its_first_step_is_not_zero) {
    const auto train = settings(choice::Schedule::constant);
    BOOST_TEST(learning_rate(train, 1) == 2e-5 / 20);
    BOOST_TEST(learning_rate(train, 7) == 2e-5 * 7 / 20, boost::test_tools::tolerance(1e-14));
    BOOST_TEST(learning_rate(train, 20) == 2e-5);
}

BOOST_AUTO_TEST_CASE(constant_stays_linear_and_cosine_end_at_zero) {
    BOOST_TEST(learning_rate(settings(choice::Schedule::constant), 120) == 2e-5);
    const auto linear = settings(choice::Schedule::linear);
    BOOST_TEST(learning_rate(linear, 70) == 1e-5, boost::test_tools::tolerance(1e-14));
    BOOST_TEST(learning_rate(linear, 120) == 0.0);
    const auto cosine = settings(choice::Schedule::cosine);
    BOOST_TEST(learning_rate(cosine, 45) == 2e-5 * (0.5 + 0.5 * 0.70710678118654757),
               boost::test_tools::tolerance(1e-14));
    BOOST_TEST(learning_rate(cosine, 120) < 1e-20);
}

BOOST_AUTO_TEST_CASE(a_run_without_warm_up_starts_at_the_full_rate) {
    auto train = settings(choice::Schedule::constant);
    train.warmup_steps = 0;
    BOOST_TEST(learning_rate(train, 1) == 2e-5);
}
