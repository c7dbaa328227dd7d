#include "core/text.hpp"
#include "options/field_text.hpp"
#include "options/support.hpp"

using namespace longlora;
using longlora::test::contains;

BOOST_AUTO_TEST_SUITE(help_test)

BOOST_AUTO_TEST_CASE(every_option_its_default_and_its_section_are_there) {
    const std::string help = help_text();
    each_option(Options{}, [&](std::string_view key, const auto& field, const About&) {
        const std::string name(key);
        BOOST_TEST(contains(help, "\n  --" + name + " " + field_text(field)), name);
        BOOST_TEST(contains(help, "\n[" + name.substr(0, name.find('.')) + "]\n"), name);
    });
    for (const char* word : {"--config", "--dry-run", "--version", "train", "evaluate", "export",
                             "prepare", "report", "lora_plus | lora | full"}) {
        BOOST_TEST(contains(help, word), word);
    }
}

BOOST_AUTO_TEST_CASE(lines_fit_a_hundred_columns) {
    for (const auto& line : split(help_text(), '\n')) {
        BOOST_TEST(line.size() <= 100, line);
    }
}

BOOST_AUTO_TEST_SUITE_END()
