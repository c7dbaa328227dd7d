#include "core/progress.hpp"

#include <cstdlib>
#include <limits>
#include <string>

#include <boost/test/unit_test.hpp>

#include "support/capture.hpp"

using namespace longlora;

namespace {

const ProgressView halfway = {.step = 50,
                              .last = 100,
                              .fraction = 0.5,
                              .loss = 2.34567,
                              .tokens_per_second = 12345,
                              .seconds_left = 75,
                              .has_report = true,
                              .what = ""};

}  // namespace

BOOST_AUTO_TEST_SUITE(progress_test)

BOOST_AUTO_TEST_CASE(plain_line_has_all_figures) {
    BOOST_TEST(plain_line(halfway) ==
               "step  50/100  loss 2.3457  12.35 K tokens/s  1 min 15 s left");
    ProgressView first;
    first.step = 1;
    first.last = 20;
    first.what = "pass 1, chunk 2 of 4";
    BOOST_TEST(plain_line(first) == "step  1/20  pass 1, chunk 2 of 4");
}

BOOST_AUTO_TEST_CASE(bar_fills_with_the_run_and_fits_the_width) {
    const auto half = bar_line(halfway, 120);
    BOOST_TEST(half.substr(0, 42) == "[" + std::string(20, '#') + std::string(20, '.') + "]");
    for (int width = 1; width < 200; ++width) {
        BOOST_TEST(bar_line(halfway, width).size() < static_cast<std::size_t>(width));
    }
    ProgressView inside = halfway;  // no room for the place inside the step: the bar stays
    inside.what = std::string(40, 'x');
    BOOST_TEST(bar_line(inside, 80) == bar_line(halfway, 80));
    ProgressView end = halfway;
    end.fraction = 1.0001;  // rounding may reach past the end
    BOOST_TEST(bar_line(end, 120).substr(0, 42) == "[" + std::string(40, '#') + "]");
}

BOOST_AUTO_TEST_CASE(a_skipped_step_shows_as_such) {
    ProgressView bad = halfway;
    bad.loss = std::numeric_limits<double>::quiet_NaN();
    BOOST_TEST((plain_line(bad).find("loss nan") != std::string::npos));
}

BOOST_AUTO_TEST_CASE(plain_lines_first_multiples_and_last) {
    unsetenv("TERM");  // no bar, wherever the test runs
    const auto text = test::written_by(1, [] {
        Progress progress(4, 12, 5);
        for (Index step = 4; step <= 12; ++step) {
            progress.inside(step, 0.5, "pass 1");  // too soon to be worth a line
            progress.done({.step = step, .loss = 1, .tokens = 100, .seconds = 2});
        }
        progress.end();
    });
    BOOST_TEST(text ==
               "step  4/12  loss 1.0000  50 tokens/s  16 s left\n"
               "step  5/12  loss 1.0000  50 tokens/s  14 s left\n"
               "step 10/12  loss 1.0000  50 tokens/s  4.0 s left\n"
               "step 12/12  loss 1.0000  50 tokens/s  0.0 s left\n");
}

BOOST_AUTO_TEST_SUITE_END()
