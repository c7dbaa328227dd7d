#include "options/validate.hpp"

#include "options/support.hpp"

using namespace longlora;
using longlora::test::contains;
using longlora::test::refusal;

namespace {

using Settings = std::vector<std::pair<std::string, std::string>>;

Options given(const Settings& settings) {
    Options options;
    for (const auto& [key, value] : settings) {
        set_option(options, key, value);
    }
    return options;
}

struct Contradiction {
    Settings settings;
    int ranks;
    std::vector<std::string> named;  // what the message must say
};

void check(const std::vector<Contradiction>& contradictions) {
    for (const auto& [settings, ranks, named] : contradictions) {
        const auto message = refusal([&, s = settings, r = ranks] { validate(given(s), r); });
        BOOST_TEST(!message.empty(), settings[0].first << " = " << settings[0].second << " passed");
        for (const auto& part : named) {
            BOOST_TEST(contains(message, part), "'" << part << "' is not in: " << message);
        }
    }
}

bool is_warned(const Settings& settings, const std::string& part, int ranks = 1) {
    for (const auto& line : validate(given(settings), ranks)) {
        if (contains(line, part)) {
            return true;
        }
    }
    return false;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(validate_test)

BOOST_AUTO_TEST_CASE(built_in_values_hold_on_any_rank_count) {
    for (const int ranks : {1, 2, 3, 5, 8, 64}) {
        BOOST_TEST(validate(Options{}, ranks).empty());
    }
}

BOOST_AUTO_TEST_CASE(layouts_that_cannot_be) {
    check({
        {{{"attention.group", "1023"}}, 1, {"attention.group", "1023", "even"}},
        {{{"attention.group", "1"}}, 1, {"attention.group", "even"}},
        {{{"sequence.length", "8200"}, {"attention.group", "512"}},
         1,
         {"sequence.length 8200", "256"}},
        {{{"sequence.length", "1004"}}, 1, {"sequence.length 1004", "multiple of 8"}},
        {{{"sequence.chunks", "3"}}, 1, {"sequence.length 8192", "3 chunks"}},
        {{{"sequence.chunks", "3"}, {"attention.pattern", "full"}}, 1, {"3 chunks"}},
        {{{"parallel.sequence", "3"}}, 6, {"3 sequence ranks"}},
        {{{"parallel.sequence", "3"}}, 8, {"parallel.sequence 3", "8 ranks", "1, 2, 4, 8"}},
        {{{"parallel.sequence", "16"}}, 8, {"parallel.sequence 16", "8 ranks"}},
        {{{"attention.boundary", "wrap"}, {"sequence.chunks", "2"}},
         1,
         {"wrap", "sequence.chunks to 1"}},
        {{{"attention.boundary", "wrap"}, {"attention.group", "1024"}, {"sequence.length", "2560"}},
         1,
         {"wrap", "multiple of attention.group"}},
        {{{"attention.boundary", "wrap"}, {"attention.pattern", "full"}}, 1, {"wrap", "full"}},
    });
}

BOOST_AUTO_TEST_CASE(numbers_out_of_range) {
    check({
        {{{"train.learning_rate", "-1e-3"}}, 1, {"train.learning_rate", "at least 0", "-0.001"}},
        {{{"train.learning_rate", "2"}}, 1, {"train.learning_rate", "at most 1"}},
        {{{"train.steps", "-5"}}, 1, {"train.steps", "at least 1", "-5"}},
        {{{"train.batch", "0"}}, 1, {"train.batch", "at least 1"}},
        {{{"train.warmup_steps", "-1"}}, 1, {"train.warmup_steps"}},
        {{{"train.beta1", "1"}}, 1, {"train.beta1", "below 1"}},
        {{{"train.beta2", "-0.1"}}, 1, {"train.beta2", "at least 0"}},
        {{{"train.epsilon", "0"}}, 1, {"train.epsilon", "above 0"}},
        {{{"train.weight_decay", "-1"}}, 1, {"train.weight_decay"}},
        {{{"train.clip_norm", "-1"}}, 1, {"train.clip_norm"}},
        {{{"tune.rank", "0"}}, 1, {"tune.rank", "at least 1"}},
        {{{"tune.dropout", "1"}}, 1, {"tune.dropout", "below 1"}},
        {{{"tune.alpha", "0"}}, 1, {"tune.alpha", "above 0"}},
        {{{"sequence.length", "0"}}, 1, {"sequence.length"}},
        {{{"sequence.length", "-8192"}}, 1, {"sequence.length"}},
        {{{"sequence.chunks", "-2"}}, 1, {"sequence.chunks"}},
        {{{"attention.group", "-1024"}}, 1, {"attention.group"}},
        {{{"parallel.sequence", "-1"}}, 1, {"parallel.sequence"}},
        {{{"parallel.threads", "-1"}}, 1, {"parallel.threads"}},
        {{{"rope.factor", "0"}}, 1, {"rope.factor"}},
        {{{"run.keep", "0"}}, 1, {"run.keep"}},
        {{{"comm.timeout", "0"}}, 1, {"comm.timeout"}},
        {{{"log.every", "0"}}, 1, {"log.every"}},
        {{{"evaluate.stride", "-1"}}, 1, {"evaluate.stride"}},
        {{{"model.heads", "0"}}, 1, {"model.heads"}},
        {{{"model.vocabulary", "-1"}}, 1, {"model.vocabulary"}},
    });
}

BOOST_AUTO_TEST_CASE(model_targets_and_contexts) {
    check({
        {{{"model.heads", "6"}, {"model.kv_heads", "4"}, {"model.width", "96"}},
         1,
         {"model.heads 6", "model.kv_heads 4"}},
        {{{"model.width", "100"}}, 1, {"model.width 100", "model.heads 8"}},
        {{{"model.width", "24"}}, 1, {"head size 3", "even"}},
        {{{"model.head_dim", "5"}}, 1, {"head size 5", "even"}},
        {{{"tune.targets", "q_proj,q_porj"}}, 1, {"tune.targets", "q_porj", "q_proj, k_proj"}},
        {{{"tune.targets", "q_proj,q_proj"}}, 1, {"tune.targets", "twice"}},
        {{{"tune.targets", ","}}, 1, {"tune.targets is empty"}},
        {{{"evaluate.contexts", "256,0"}}, 1, {"evaluate.contexts", "0"}},
        {{{"evaluate.contexts", "256,-4"}}, 1, {"evaluate.contexts", "-4"}},
        {{{"evaluate.contexts", "256,5k"}}, 1, {"evaluate.contexts", "5k"}},
    });
    // With model.path the sizes come from its config.json.
    BOOST_CHECK_NO_THROW(validate(given({{"model.path", "m"}, {"model.width", "99"}}), 1));
}

BOOST_AUTO_TEST_CASE(what_has_no_effect_is_warned_of_and_accepted) {
    BOOST_TEST(is_warned({{"train.steps", "10"}}, "train.warmup_steps 20"));
    BOOST_TEST(is_warned({{"tune.mode", "full"}, {"tune.rank", "4"}}, "tune.rank has no effect"));
    BOOST_TEST(
        is_warned({{"attention.pattern", "full"}, {"attention.group", "64"}}, "attention.group"));
    BOOST_TEST(is_warned({{"attention.pattern", "local"}, {"attention.boundary", "wrap"}}, "wrap"));
    BOOST_TEST(is_warned({{"rope.factor", "8"}}, "rope.factor"));
    BOOST_TEST(is_warned({{"evaluate.every", "10"}}, "data.validation"));
    BOOST_TEST(is_warned({{"train.batch", "1"}, {"parallel.sequence", "2"}}, "train.batch 1", 8));
    BOOST_TEST(is_warned({{"model.path", "m"}, {"model.layers", "2"}}, "model.layers"));
    BOOST_TEST(validate(given({{"tune.mode", "full"}}), 1).empty());
}

BOOST_AUTO_TEST_CASE(prepare_needs_input_output_and_tokenizer) {
    Settings settings;
    for (const auto& [key, value] : Settings{{"prepare.input", "books"},
                                             {"prepare.output", "t.h5"},
                                             {"prepare.tokenizer", "bytes"}}) {
        const auto message = refusal([&] { validate_prepare(given(settings)); });
        BOOST_TEST(contains(message, key), message);
        settings.emplace_back(key, value);
    }
    BOOST_CHECK_NO_THROW(validate_prepare(given(settings)));
    settings.pop_back();
    settings.emplace_back("model.path", "model");
    BOOST_CHECK_NO_THROW(validate_prepare(given(settings)));
}

BOOST_AUTO_TEST_SUITE_END()
