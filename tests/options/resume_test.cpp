#include "options/support.hpp"

using namespace longlora;
using longlora::test::contains;

namespace {

Options given(const std::vector<std::pair<std::string, std::string>>& settings) {
    Options options;
    for (const auto& [key, value] : settings) {
        set_option(options, key, value);
    }
    return options;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(resume_test)

BOOST_AUTO_TEST_CASE(other_physics_is_listed_one_line_each) {
    const auto saved = to_map(given({{"tune.rank", "8"}, {"train.learning_rate", "2e-5"}}));
    const auto differences = physics_differences(
        saved, given({{"tune.rank", "4"}, {"train.learning_rate", "1e-3"}, {"train.batch", "64"}}));
    BOOST_REQUIRE(differences.size() == 2);
    BOOST_TEST(differences[0] == "tune.rank is '8' in the run, not '4'");
    BOOST_TEST(contains(differences[1], "train.learning_rate"));
}

BOOST_AUTO_TEST_CASE(what_is_not_given_is_no_difference) {
    const auto saved = to_map(given({{"tune.rank", "4"}, {"sequence.length", "1024"}}));
    BOOST_TEST(physics_differences(saved, Options{}).empty());
    Options options;
    adopt(saved, options);
    BOOST_TEST(options.tune.rank == 4);
    BOOST_TEST(options.sequence.length == 1024);
    BOOST_TEST(!options.is_given("tune.rank"));
}

BOOST_AUTO_TEST_CASE(layout_logging_and_length_of_the_run_may_change) {
    const auto saved = to_map(Options{});
    const Options options = given({{"train.steps", "2000"},
                                   {"sequence.chunks", "4"},
                                   {"train.activations", "keep"},
                                   {"parallel.sequence", "2"},
                                   {"run.directory", "elsewhere"},
                                   {"evaluate.every", "10"},
                                   {"log.every", "5"},
                                   {"train.checkpoint_every", "7"},
                                   {"data.validation", "v.h5"},
                                   {"comm.timeout", "60"}});
    BOOST_TEST(physics_differences(saved, options).empty());
}

BOOST_AUTO_TEST_CASE(given_options_and_fresh_ones_stay_on_adoption) {
    const auto saved = to_map(given({{"train.steps", "10"},
                                     {"log.every", "3"},
                                     {"parallel.sequence", "4"},
                                     {"train.dump_gradients", "g.h5"},
                                     {"run.directory", "old"}}));
    Options options = given({{"train.steps", "20"}, {"run.directory", "new"}});
    adopt(saved, options);
    BOOST_TEST(options.train.steps == 20);
    BOOST_TEST(options.log.every == 3);
    BOOST_TEST(options.parallel.sequence == 0);
    BOOST_TEST(options.train.dump_gradients.empty());
    BOOST_TEST(options.run.directory == "new");
}

BOOST_AUTO_TEST_CASE(two_ways_to_say_the_same_are_the_same) {
    const auto saved = to_map(given({{"sequence.length", "4096"}}));  // group 0: a quarter
    BOOST_TEST(physics_differences(saved, given({{"attention.group", "1024"}})).empty());
    BOOST_TEST(physics_differences(saved, given({{"attention.group", "0"}})).empty());
    BOOST_TEST(physics_differences(saved, given({{"attention.group", "512"}})).size() == 1);
    BOOST_TEST(physics_differences(saved, given({{"tune.targets", "v_proj, q_proj,k_proj,o_proj"}}))
                   .empty());
    BOOST_TEST(physics_differences(saved, given({{"train.learning_rate", "0.00002"}})).empty());
}

BOOST_AUTO_TEST_SUITE_END()
