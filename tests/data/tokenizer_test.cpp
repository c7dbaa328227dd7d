#include "data/tokenizer.hpp"

#include <algorithm>
#include <ctime>
#include <numeric>

#include <boost/test/unit_test.hpp>
#include <sentencepiece_trainer.h>

#include "support/files.hpp"

namespace longlora {
namespace {

using test::TemporaryFolder;
using test::write_file;

const std::string story =
    "Once upon a time there was a little girl who liked to sing.\n"
    "She sang all day long, and the little birds sang with her.\n"
    "One day a big bird came and said: why do you sing, little girl?\n"
    "I sing to be happy, said the little girl, and the big bird sang too.\n";

// A model of SentencePiece as LLaMA's: BPE, byte fallback, no normalisation, newlines kept.
std::string trained_model() {
    const TemporaryFolder folder;
    const auto text = write_file(folder / "text.txt", story);
    const std::string prefix = (folder / "small").string();
    const auto status = sentencepiece::SentencePieceTrainer::Train(
        "--minloglevel=2 --model_type=bpe --vocab_size=330 --byte_fallback=true "
        "--hard_vocab_limit=false --normalization_rule_name=identity "
        "--remove_extra_whitespaces=false --input=" +
        text.string() + " --model_prefix=" + prefix);
    BOOST_REQUIRE_MESSAGE(status.ok(), status.ToString());
    return test::read_file(prefix + ".model");
}

BOOST_AUTO_TEST_CASE(bytes_are_their_own_ids) {
    const Tokenizer tokenizer = Tokenizer::bytes();
    BOOST_TEST(tokenizer.name() == "bytes");
    BOOST_TEST(tokenizer.vocabulary_size() == 258);
    BOOST_TEST(tokenizer.bos() == 256);
    BOOST_TEST(tokenizer.eos() == 257);
    std::string all(256, '\0');
    std::iota(all.begin(), all.end(), '\0');
    auto ids = tokenizer.encode(all);
    BOOST_TEST(std::ranges::is_sorted(ids));
    BOOST_TEST((ids.front() == 0 && ids.back() == 255));
    ids.insert(ids.begin(), tokenizer.bos());
    ids.push_back(tokenizer.eos());
    BOOST_TEST(tokenizer.decode(ids) == all);
    CHECK_INPUT_ERROR(tokenizer.decode(std::vector{258}), "token id 258 is not in the vocabulary");
    CHECK_INPUT_ERROR(tokenizer.decode(std::vector{-1}), "0 to 257");
    BOOST_TEST(tokenizer.digest() == 0x48a9aa964fd82bcdULL);  // stands in files
}

BOOST_AUTO_TEST_CASE(sentencepiece_gives_text_back_with_lines_and_unseen_characters) {
    const TemporaryFolder folder;
    const auto path = write_file(folder / "tokenizer.model", trained_model());
    const Tokenizer tokenizer = Tokenizer::sentencepiece(path);
    BOOST_TEST(tokenizer.name() == "tokenizer.model");
    BOOST_TEST(tokenizer.vocabulary_size() > 260);
    BOOST_TEST(tokenizer.bos() == 1);
    BOOST_TEST(tokenizer.eos() == 2);
    BOOST_TEST(tokenizer.encode("").empty());
    for (const std::string& text : std::vector<std::string>{
             story, "\n\n a  girl \t\n", "\xc3\xa9\xf0\x9f\x98\x80 <s> </s>", "x"}) {
        const auto ids = tokenizer.encode(text);
        BOOST_TEST(tokenizer.decode(ids) == text);
        BOOST_TEST(std::ranges::count(ids, tokenizer.bos()) == 0);
        BOOST_TEST(std::ranges::count(ids, tokenizer.eos()) == 0);
    }
    BOOST_TEST(tokenizer.encode(story).size() < story.size() / 2);
    BOOST_TEST(tokenizer.decode(std::vector{tokenizer.bos(), tokenizer.eos()}).empty());
    CHECK_INPUT_ERROR(tokenizer.decode(std::vector{1'000'000}), "not in the vocabulary");
}

BOOST_AUTO_TEST_CASE(digests_tell_models_apart) {
    const std::string model = trained_model();
    const Tokenizer first = Tokenizer::sentencepiece(model, "one");
    Tokenizer second = Tokenizer::sentencepiece(model, "two");
    BOOST_TEST(first.digest() == second.digest());
    BOOST_TEST(second.name() == "two");
    second = Tokenizer::bytes();
    BOOST_TEST(first.digest() != second.digest());
}

BOOST_AUTO_TEST_CASE(a_damaged_model_is_named) {
    const TemporaryFolder folder;
    const std::string model = trained_model();
    const auto refused = [&](const std::string& content) {
        const auto path = write_file(folder / "x.model", content);
        CHECK_INPUT_ERROR(Tokenizer::sentencepiece(path),
                          path.string() + " is not a SentencePiece model, or damaged");
    };
    refused("");
    refused("{\"version\": \"1.0\"}");
    for (std::size_t length = 1; length < model.size(); length += model.size() / 23) {
        refused(model.substr(0, length));
    }
    CHECK_INPUT_ERROR(Tokenizer::sentencepiece(folder / "none"), "cannot open");
}

// A whole novel as one string: the same text back, in seconds (n log n; a quadratic encoder would
// need hours).
BOOST_AUTO_TEST_CASE(a_novel_takes_seconds) {
    const auto path = test::shared_data("tokenizers/mistral-v1-tokenizer.model");
    const auto novel = test::shared_data("books/train/pg2600-war-and-peace.txt");
    if (path.empty() || novel.empty()) {
        return;
    }
    const Tokenizer tokenizer = Tokenizer::sentencepiece(path);
    BOOST_TEST(tokenizer.vocabulary_size() == 32000);
    const std::string text = test::read_file(novel);
    const std::clock_t start = std::clock();  // of this process: other work on the machine aside
    const auto ids = tokenizer.encode(text);
    const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
    BOOST_TEST_MESSAGE(ids.size() << " tokens in " << seconds << " s");
    BOOST_TEST(seconds < 60);
    BOOST_TEST(tokenizer.decode(ids) == text);
}

}  // namespace
}  // namespace longlora
