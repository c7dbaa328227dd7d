#include <filesystem>
#include <fstream>
#include <sstream>

#include "core/device.hpp"
#include "options/support.hpp"
#include "options/validate.hpp"

using namespace longlora;
using longlora::test::contains;
using longlora::test::IniFile;
using longlora::test::parse_words;
using longlora::test::refusal;

BOOST_AUTO_TEST_SUITE(parse_test)

BOOST_AUTO_TEST_CASE(without_options_the_default_config_is_used) {
    const std::vector<std::vector<const char*>> starts = {
        {}, {"train"}, {"--dry-run"}, {"evaluate"}, {"--help"}};
    for (const auto& words : starts) {
        const auto invocation = parse_words(words);
        BOOST_TEST(invocation.uses_default_config);
        BOOST_TEST(invocation.options.run.name == "demonstration");
        BOOST_TEST(invocation.options.train.steps == 7);
        BOOST_TEST(invocation.options.is_given("train.steps"));
    }
}

BOOST_AUTO_TEST_CASE(an_option_or_a_config_turns_the_default_config_off) {
    const IniFile file("");
    const std::string path = file.path();
    for (const auto& words : {std::vector<const char*>{"--train.batch", "3"},
                              std::vector<const char*>{"--config", path.c_str()}}) {
        const auto invocation = parse_words(words);
        BOOST_TEST(!invocation.uses_default_config);
        BOOST_TEST(invocation.options.train.steps == 1000);
        BOOST_TEST(!invocation.options.is_given("train.steps"));
    }
}

BOOST_AUTO_TEST_CASE(command_line_beats_file_beats_built_in) {
    const IniFile file("[train]\nsteps = 30   # a comment\nbatch = 5\n\n[run]\nname = from file\n");
    const std::string path = file.path();
    for (const auto& words :
         {std::vector<const char*>{"--config", path.c_str(), "--train.batch", "6"},
          std::vector<const char*>{"--train.batch=6", "--config", path.c_str(), "train"}}) {
        const Options options = parse_words(words).options;
        BOOST_TEST(options.train.steps == 30);
        BOOST_TEST(options.train.batch == 6);
        BOOST_TEST(options.run.name == "from file");
        BOOST_TEST(options.train.warmup_steps == 20);
    }
}

BOOST_AUTO_TEST_CASE(later_words_beat_earlier_ones) {
    const IniFile first("[train]\nsteps = 1\nbatch = 1\n");
    const IniFile second("train.steps = 2\n");
    const std::string one = first.path();
    const std::string two = second.path();
    const auto options = parse_words({"--config", one.c_str(), "--config", two.c_str(),
                                      "--log.every", "3", "--log.every", "4"})
                             .options;
    BOOST_TEST(options.train.steps == 2);
    BOOST_TEST(options.train.batch == 1);
    BOOST_TEST(options.log.every == 4);
}

BOOST_AUTO_TEST_CASE(default_config_by_name_with_options) {
    const auto invocation = parse_words({"--config", "default", "--train.steps=5"});
    BOOST_TEST(invocation.uses_default_config);
    BOOST_TEST(invocation.options.run.name == "demonstration");
    BOOST_TEST(invocation.options.train.steps == 5);
}

BOOST_AUTO_TEST_CASE(commands_and_flags) {
    for (const char* command : {"train", "evaluate", "export", "prepare", "report"}) {
        BOOST_TEST(parse_words({command}).command == command);
        BOOST_TEST(parse_words({"--run.name", "x", command}).command == command);
    }
    BOOST_TEST(parse_words({}).command == "train");
    BOOST_TEST(parse_words({"--help"}).wants_help);
    BOOST_TEST(parse_words({"-h"}).wants_help);
    BOOST_TEST(parse_words({"--version"}).wants_version);
    BOOST_TEST(parse_words({"--dry-run", "--run.name", "x"}).is_dry_run);
    const auto unknown = refusal([] { parse_words({"retrieve"}); });
    BOOST_TEST(contains(unknown, "'retrieve'"), unknown);
    BOOST_TEST(contains(unknown, "train, evaluate, export, prepare, report"), unknown);
    BOOST_TEST(contains(refusal([] { parse_words({"train", "report"}); }), "one command"));
    // A list with a space in it leaves a word over.
    BOOST_TEST(contains(refusal([] {
                            parse_words({"--tune.targets", "q_proj,", "k_proj"});
                        }),
                        "k_proj"));
}

BOOST_AUTO_TEST_CASE(numbers_and_lists) {
    const auto options =
        parse_words({"--train.learning_rate", "-1e-3", "--train.batch", "-4", "--tune.targets",
                     "q_proj,v_proj", "--evaluate.contexts=256, 512", "--train.epsilon=1e-8",
                     "--data.train", "a b#c=d.h5", "--run.name", "-dashed"})
            .options;
    BOOST_TEST(options.train.learning_rate == -1e-3);
    BOOST_TEST(options.train.batch == -4);
    BOOST_TEST(options.train.epsilon == 1e-8);
    BOOST_TEST(options.targets() == (std::vector<std::string>{"q_proj", "v_proj"}),
               boost::test_tools::per_element());
    BOOST_TEST(options.evaluation_contexts() == (std::vector<Index>{256, 512}),
               boost::test_tools::per_element());
    BOOST_TEST(options.data.train == "a b#c=d.h5");
    BOOST_TEST(options.run.name == "-dashed");
}

BOOST_AUTO_TEST_CASE(garbage_is_refused_by_name) {
    for (const char* value : {"12x", "1e3", "1.5", "", " 3", "0x10", "99999999999999999999"}) {
        const auto message = refusal([&] { parse_words({"--train.steps", value}); });
        BOOST_TEST(contains(message, "train.steps"), value << ": " << message);
    }
    for (const char* value : {"2e-5x", "nan", "inf", "1,5", "", "two"}) {
        const auto message = refusal([&] { parse_words({"--train.learning_rate", value}); });
        BOOST_TEST(contains(message, "train.learning_rate"), value << ": " << message);
    }
    BOOST_TEST(contains(refusal([] {
                            parse_words({"--attention.pattern", "shift"});
                        }),
                        "attention.pattern must be one of s2, local, shifted, full, not 'shift'"));
}

BOOST_AUTO_TEST_CASE(what_is_not_built_yet_is_said_so) {
    BOOST_TEST(contains(refusal([] { parse_words({"--rope.scaling", "yarn"}); }), "not built yet"));
}

// Whether there is a GPU is found out later, by the program's start.
BOOST_AUTO_TEST_CASE(a_gpu_may_be_asked_for_where_it_is_built_in) {
    const auto ask = [] { parse_words({"--parallel.device", "cuda"}); };
    if (has_cuda) {
        BOOST_CHECK_NO_THROW(ask());
    } else {
        BOOST_TEST(contains(refusal(ask), "this build has no CUDA"));
    }
}

BOOST_AUTO_TEST_CASE(unknown_keys_name_the_nearest) {
    const std::vector<std::pair<const char*, std::string>> cases = {
        {"--train.step", "--train.steps"},
        {"--trian.steps", "--train.steps"},
        {"--atention.group", "--attention.group"},
        {"--steps", "--train.steps"},
        {"--learningrate", "--train.learning_rate"},
        {"--dryrun", "--dry-run"},
        {"--train.warmup-steps", "--train.warmup_steps"}};
    for (const auto& [word, expected] : cases) {
        const char* unknown = word;
        const auto message = refusal([&] { parse_words({unknown, "3"}); });
        BOOST_TEST(contains(message, "did you mean " + expected + "?"), message);
        BOOST_TEST(contains(message, unknown), message);
    }
    BOOST_TEST(!contains(refusal([] { parse_words({"--qqqqqqqq=3"}); }), "did you mean"));
    // An abbreviation is no name: it would change its meaning with the next option.
    BOOST_TEST(contains(refusal([] { parse_words({"--train.warm", "3"}); }), "unknown option"));
}

BOOST_AUTO_TEST_CASE(faults_in_files_name_the_file) {
    const auto fault_of = [](const std::string& content) {
        const IniFile file(content);
        const std::string path = file.path();
        const auto message = refusal([&] { parse_words({"--config", path.c_str()}); });
        BOOST_TEST(contains(message, path), message);
        return message;
    };
    BOOST_TEST(contains(fault_of("[train]\nstesp = 3\n"), "did you mean --train.steps?"));
    BOOST_TEST(
        contains(fault_of("[train]\nsteps = three\n"), "train.steps must be a whole number"));
    BOOST_TEST(contains(fault_of("[train]\nsteps = 3\nsteps = 4\n"), "twice"));
    BOOST_TEST(contains(fault_of("[train]\nsteps\n"), "steps"));
    const auto missing = refusal([] { parse_words({"--config", "/no/such.ini"}); });
    BOOST_TEST(contains(missing, "/no/such.ini"), missing);
    BOOST_TEST(contains(refusal([] { parse_words({"--config", "/tmp"}); }), "/tmp"));
}

BOOST_AUTO_TEST_CASE(missing_values_are_refused) {
    BOOST_TEST(contains(refusal([] { parse_words({"--train.steps"}); }), "train.steps"));
    BOOST_TEST(contains(refusal([] { parse_words({"--data.train", "--dry-run"}); }), "data.train"));
    BOOST_TEST(contains(refusal([] { parse_words({"--data.train", "--no-such"}); }), "data.train"));
    BOOST_TEST(contains(refusal([] { parse_words({"--help=3"}); }), "help"));
}

BOOST_AUTO_TEST_CASE(every_config_in_the_tree_parses_and_holds) {
    int count = 0;
    for (const auto& entry : std::filesystem::directory_iterator(LONGLORA_CONFIG_DIR)) {
        if (entry.path().extension() != ".ini") {
            continue;
        }
        ++count;
        const std::string path = entry.path().string();
        const auto invocation = parse_words({"--config", path.c_str()});
        BOOST_TEST(!invocation.options.given.empty());
        BOOST_CHECK_NO_THROW(validate(invocation.options, 8));
    }
    BOOST_TEST(count > 0);
}

BOOST_AUTO_TEST_SUITE_END()
