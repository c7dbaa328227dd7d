#include "core/error.hpp"

#include <string>

#include <boost/test/unit_test.hpp>

using namespace longlora;

namespace {

template <class Work>
Error thrown_by(const Work& work) {
    try {
        work();
    } catch (const Error& error) {
        return error;
    }
    return {"nothing", ExitCode::done};
}

}  // namespace

BOOST_AUTO_TEST_SUITE(error_test)

BOOST_AUTO_TEST_CASE(codes_messages_and_places) {
    const Error user = thrown_by([] { require(false, "a sentence"); });
    BOOST_TEST((user.code() == ExitCode::bad_input));
    BOOST_TEST(user.what() == std::string("a sentence"));
    BOOST_TEST(!user.seen_by_all());
    BOOST_TEST((std::string(user.where().file_name()).find("error_test.cpp") != std::string::npos));
    BOOST_TEST((thrown_by([] { ensure(false, "disk full"); }).code() == ExitCode::failure));
    BOOST_CHECK_NO_THROW(require(true, ""));
}

BOOST_AUTO_TEST_CASE(what_all_ranks_see_is_marked) {
    const Error shared = Error::of_all_ranks("a sentence", ExitCode::bad_input);
    BOOST_TEST(shared.seen_by_all());
    BOOST_TEST((shared.code() == ExitCode::bad_input));
}

BOOST_AUTO_TEST_SUITE_END()
