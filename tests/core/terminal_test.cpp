#include "core/terminal.hpp"

#include <unistd.h>

#include <string>

#include <boost/test/unit_test.hpp>

#include "core/error.hpp"
#include "support/capture.hpp"

using namespace longlora;
using longlora::test::written_by;

BOOST_AUTO_TEST_SUITE(terminal_test)

BOOST_AUTO_TEST_CASE(lines_end_where_they_should) {
    BOOST_TEST(written_by(STDOUT_FILENO, [] { say("hello"); }) == "hello\n");
    BOOST_TEST(written_by(STDERR_FILENO, [] { warn("mind"); }) == "longlora_hpc: warning: mind\n");
    BOOST_TEST(written_by(STDERR_FILENO, [] { complain("no"); }) == "longlora_hpc: no\n");
}

BOOST_AUTO_TEST_CASE(a_drawn_line_is_taken_away_before_the_next) {
    const auto text = written_by(STDOUT_FILENO, [] {
        draw("[##..]");
        draw("[###.]");
        say("done");
        say("more");
        draw("");
    });
    BOOST_TEST(text == "\r[##..]\033[K\r[###.]\033[K\r\033[Kdone\nmore\n");
}

BOOST_AUTO_TEST_CASE(table_columns_are_aligned) {
    Table table({"model", "context", "perplexity"});
    table.add({"base", "256", "15.13"});
    table.add({"interpolated", "4096", "9.2"});
    table.add({"trained", "-", "-"});
    BOOST_TEST(table.text() ==
               "model         context  perplexity\n"
               "------------  -------  ----------\n"
               "base              256       15.13\n"
               "interpolated     4096         9.2\n"
               "trained             -           -");
}

BOOST_AUTO_TEST_CASE(table_without_rows_and_with_wrong_rows) {
    Table table({"a", "b"});
    BOOST_TEST(table.text() == "a  b\n-  -");
    BOOST_CHECK_THROW(table.add({"1"}), Error);
}

BOOST_AUTO_TEST_CASE(the_width_is_always_usable) { BOOST_TEST(terminal_width() > 0); }

BOOST_AUTO_TEST_SUITE_END()
