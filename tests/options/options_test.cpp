#include <set>

#include "core/text.hpp"
#include "options/support.hpp"

using namespace longlora;
using longlora::test::contains;
using longlora::test::refusal;

namespace {

// Another value than the built-in one, of each type.
void change(bool& field) { field = !field; }
void change(std::string& field) { field += "x,\ty # z"; }
void change(Index& field) { field += 3; }
void change(double& field) { field = field / 3 + 1e-7; }
template <class Enum>
    requires std::is_enum_v<Enum>
void change(Enum& field) {
    const auto count = static_cast<int>(split(choice_texts<Enum>.built, ' ').size());
    field = static_cast<Enum>((static_cast<int>(field) + 1) % count);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(options_test)

BOOST_AUTO_TEST_CASE(map_round_trip_keeps_every_value) {
    Options options;
    each_option(options, [](std::string_view, auto& field, const About&) { change(field); });
    const auto saved = to_map(options);
    BOOST_TEST(saved.size() == option_keys().size());
    BOOST_TEST((to_map(from_map(saved)) == saved));
    BOOST_TEST(from_map(saved).train.learning_rate == options.train.learning_rate);  // bit for bit
    BOOST_TEST(from_map(saved).tune.targets == options.tune.targets);
    BOOST_TEST((from_map(saved).tune.mode == options.tune.mode));
}

BOOST_AUTO_TEST_CASE(map_ignores_what_is_no_option_and_keeps_built_in_values) {
    const Options options = from_map({{"version", "0.1"}, {"train.steps", "12"}});
    BOOST_TEST(options.train.steps == 12);
    BOOST_TEST(options.train.batch == 64);
    BOOST_TEST(contains(refusal([] { from_map({{"train.steps", "x"}}); }), "train.steps"));
}

BOOST_AUTO_TEST_CASE(keys_are_unique_and_have_a_section_and_help) {
    std::set<std::string_view> keys;
    each_option(Options{}, [&](std::string_view key, const auto&, const About& about) {
        BOOST_TEST(keys.insert(key).second, key);
        BOOST_TEST((key.find('.') != std::string_view::npos), key);
        BOOST_TEST(!about.help.empty(), key);
    });
}

BOOST_AUTO_TEST_CASE(built_in_values_are_the_papers) {
    const Options options;
    BOOST_TEST(options.train.learning_rate == 2e-5);
    BOOST_TEST(options.train.batch == 64);
    BOOST_TEST(options.train.steps == 1000);
    BOOST_TEST(options.train.beta2 == 0.95);
    BOOST_TEST(options.tune.rank == 8);
    BOOST_TEST((options.tune.mode == choice::Mode::lora_plus));
    BOOST_TEST(options.attention_group() == options.sequence.length / 4);
}

BOOST_AUTO_TEST_CASE(every_word_reads_back) {
    const auto texts = [](auto first, const ChoiceTexts& all) {
        using Enum = decltype(first);
        for (const auto& word : split(all.built, ' ')) {
            BOOST_TEST(to_text(from_text<Enum>(word, "key")) == word);
        }
        for (const auto& word : split(all.later, ' ')) {
            const auto message = refusal([&] { from_text<Enum>(word, "key"); });
            BOOST_TEST(contains(message, "key " + word), message);
        }
    };
    each_option(Options{}, [&](std::string_view, const auto& field, const About&) {
        using Field = std::remove_cvref_t<decltype(field)>;
        if constexpr (std::is_enum_v<Field>) {
            texts(field, choice_texts<Field>);
        }
    });
    BOOST_TEST(to_text(Pattern::shifted) == "shifted");
    BOOST_TEST(to_text(choice::Activations::recompute_layer) == "recompute_layer");
    BOOST_TEST(to_text(choice::Transport::mpi) == "mpi");
}

BOOST_AUTO_TEST_CASE(values_that_follow_from_others) {
    Options options;
    options.run.name = "mine";
    BOOST_TEST(options.run_directory() == "runs/mine");
    options.run.directory = "/scratch/x";
    BOOST_TEST(options.run_directory() == "/scratch/x");
    options.model.kv_heads = 0;
    BOOST_TEST(options.model.kv_head_count() == options.model.heads);
    BOOST_TEST(options.model.head_size() == options.model.width / options.model.heads);
    BOOST_TEST(options.evaluation_contexts() == std::vector<Index>{options.sequence.length},
               boost::test_tools::per_element());
}

BOOST_AUTO_TEST_SUITE_END()
