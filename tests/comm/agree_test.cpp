#include "comm/agree.hpp"

#include <boost/test/unit_test.hpp>

#include "comm/environment.hpp"
#include "support/files.hpp"

using namespace longlora;
using longlora::test::contains;

namespace {

struct Outcome {
    std::string message;
    ExitCode code = ExitCode::done;
    bool is_seen_by_all = false;
};

template <class Work>
Outcome outcome_of(const Work& work) {
    try {
        agree(work);
    } catch (const Error& error) {
        return {error.what(), error.code(), error.seen_by_all()};
    }
    return {};
}

int ranks() { return Communicator<Cpu>::world().size(); }

}  // namespace

BOOST_AUTO_TEST_CASE(without_a_problem_the_result_comes_back) {
    BOOST_TEST(agree([] { return world_rank() + 10; }) == world_rank() + 10);
    bool has_run = false;
    agree([&] { has_run = true; });
    BOOST_TEST(has_run);
}

// One rank alone fails: all throw what it said, with its name, and nobody is left in a collective.
BOOST_AUTO_TEST_CASE(the_problem_of_one_rank_is_everybodys) {
    for (int failing = 0; failing < ranks(); ++failing) {
        const Outcome outcome =
            outcome_of([&] { require(world_rank() != failing, "model.bin is broken"); });
        BOOST_TEST((outcome.code == ExitCode::bad_input));
        BOOST_TEST(outcome.is_seen_by_all);
        BOOST_TEST(contains(outcome.message, "model.bin is broken"));
        const std::string name = "rank " + std::to_string(failing) + " on host " + host_name();
        BOOST_TEST(contains(outcome.message, name) == (ranks() > 1), outcome.message);
    }
    BOOST_TEST(Communicator<Cpu>::world().sum(1) == ranks());
}

BOOST_AUTO_TEST_CASE(a_problem_that_all_share_is_told_without_a_name) {
    const Outcome outcome = outcome_of([] { ensure(false, "the disk is full"); });
    BOOST_TEST(outcome.message == "the disk is full");
    BOOST_TEST((outcome.code == ExitCode::failure));
}

BOOST_AUTO_TEST_CASE(of_different_problems_the_lowest_rank_speaks) {
    const Outcome outcome = outcome_of([] {
        require(world_rank() != 0 || ranks() == 1, "a wrong option");
        throw std::runtime_error("something else on rank " + std::to_string(world_rank()));
    });
    BOOST_TEST(
        contains(outcome.message, ranks() == 1 ? "something else on rank 0" : "a wrong option"));
    BOOST_TEST((outcome.code == (ranks() == 1 ? ExitCode::failure : ExitCode::bad_input)));
}

BOOST_AUTO_TEST_CASE(a_part_of_the_ranks_agrees_on_its_own) {
    const auto world = Communicator<Cpu>::world();
    const auto part = world.split(world.rank() % 2, world.rank());
    bool has_thrown = false;
    try {
        agree(part, [&] { require(world.rank() % 2 == 0, "odd ranks only"); });
    } catch (const Error& error) {
        has_thrown = true;
        BOOST_TEST(contains(error.what(), "odd ranks only"));
    }
    BOOST_TEST(has_thrown == (world.rank() % 2 == 1));
}
