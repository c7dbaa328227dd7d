#include "core/text.hpp"

#include <boost/test/unit_test.hpp>

using namespace longlora;

BOOST_AUTO_TEST_SUITE(text_test)

BOOST_AUTO_TEST_CASE(nearest_goes_by_edit_distance) {
    const std::vector<std::string> names = {"train.steps", "train.batch", "attention.group"};
    BOOST_TEST(nearest("train.steps", names) == "train.steps");
    BOOST_TEST(nearest("train.step", names) == "train.steps");    // one left out
    BOOST_TEST(nearest("train.stteps", names) == "train.steps");  // one too many
    BOOST_TEST(nearest("trein.batsh", names) == "train.batch");   // two changed
    BOOST_TEST(nearest("atention.goup", names) == "attention.group");
    BOOST_TEST(nearest("zzzzzz", names).empty());
    BOOST_TEST(nearest("x", {}).empty());
    BOOST_TEST(nearest("ab", {"abc", "ab"}) == "ab");  // the nearest, not the first
}

BOOST_AUTO_TEST_CASE(split_trims_and_drops_empty_parts) {
    const std::vector<std::string> expected = {"a b", "c"};
    BOOST_TEST(split(" a b ,, c ,", ',') == expected, boost::test_tools::per_element());
    BOOST_TEST(split("", ',').empty());
    BOOST_TEST(split(" , ", ',').empty());
    BOOST_TEST(split("one", ',').size() == 1U);
}

BOOST_AUTO_TEST_CASE(join_undoes_split) {
    const std::vector<std::string> parts = {"q_proj", "k_proj", "v_proj"};
    BOOST_TEST(join(parts, ", ") == "q_proj, k_proj, v_proj");
    BOOST_TEST(split(join(parts, ","), ',') == parts, boost::test_tools::per_element());
    BOOST_TEST(join({}, ",").empty());
}

BOOST_AUTO_TEST_CASE(numbers_for_people) {
    BOOST_TEST(format_bytes(512) == "512 B");
    BOOST_TEST(format_bytes(1536) == "1.50 KiB");
    BOOST_TEST(format_bytes(1.5 * 1024 * 1024 * 1024) == "1.50 GiB");
    BOOST_TEST(format_count(999) == "999");
    BOOST_TEST(format_count(1.05e6) == "1.05 M");
    BOOST_TEST(format_seconds(3.25) == "3.2 s");
    BOOST_TEST(format_seconds(12) == "12 s");
    BOOST_TEST(format_seconds(61) == "1 min 01 s");
    BOOST_TEST(format_seconds(2 * 3600 + 180) == "2 h 03 min");
    BOOST_TEST(format_number(0.000123456) == "0.0001235");
    BOOST_TEST(format_number(1234567, 7) == "1234567");
}

BOOST_AUTO_TEST_SUITE_END()
