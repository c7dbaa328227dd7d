#include "data/demonstration.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "io/digest.hpp"
#include "support/files.hpp"

namespace longlora {
namespace {

using Documents = DemonstrationDocuments;
using Tokens = std::vector<std::int32_t>;

constexpr bool training = false;
constexpr bool validation = true;

Tokens read(const Documents& documents, Range range) {
    Tokens tokens(static_cast<std::size_t>(range.size()));
    documents.read(range, tokens);
    return tokens;
}

Tokens document(bool is_validation, Index index) {
    return read({is_validation, Documents::vocabulary},
                {index * Documents::document_tokens, (index + 1) * Documents::document_tokens});
}

std::int32_t word_of(std::int32_t token) { return token / static_cast<std::int32_t>(Documents::variants); }

BOOST_AUTO_TEST_CASE(any_range_reads_the_same_tokens) {
    const Documents documents(training, Documents::vocabulary);
    const Index begin = 3 * Documents::document_tokens - 1000;
    const Tokens whole = read(documents, {begin, begin + 2 * Documents::document_tokens});
    for (const Range part : {Range{0, 0}, Range{0, 1}, Range{999, 1001}, Range{1000, 17384},
                             Range{17383, 17385}, Range{5, 20000}}) {
        const Documents others(training, Documents::vocabulary + 7);  // a larger model reads them too
        const Tokens tokens = read(others, {begin + part.begin, begin + part.end});
        BOOST_TEST(std::equal(tokens.begin(), tokens.end(), whole.begin() + part.begin));
        BOOST_TEST(read(documents, {begin + part.begin, begin + part.end}) == tokens);
    }
}

// The base in config/demonstration was trained on these: another generator needs another base.
BOOST_AUTO_TEST_CASE(the_documents_are_what_they_were) {
    const auto digest = [](const Tokens& tokens) {
        return format_digest(digest_of(std::as_bytes(std::span(tokens))));
    };
    BOOST_TEST(digest(document(training, 0)) == "");
    BOOST_TEST(digest(document(training, 16383)) == "");
    BOOST_TEST(digest(document(validation, 0)) == "");
}

BOOST_AUTO_TEST_CASE(a_document_has_one_variant_of_each_word) {
    for (const bool is_validation : {training, validation}) {
        std::array<std::set<std::int32_t>, 2> tokens_of;
        for (const Index index : {0, 1}) {
            std::map<std::int32_t, std::int32_t> token_of;
            for (const std::int32_t token : document(is_validation, index)) {
                BOOST_REQUIRE((0 <= token && token < Documents::vocabulary));
                BOOST_REQUIRE(token_of.emplace(word_of(token), token).first->second == token);
                tokens_of[static_cast<std::size_t>(index)].insert(token);
            }
            BOOST_TEST(token_of.size() == static_cast<std::size_t>(Documents::words));
        }
        // another document agrees by chance only: an eighth of the words
        Tokens common;
        std::ranges::set_intersection(tokens_of[0], tokens_of[1], std::back_inserter(common));
        const auto share = static_cast<double>(common.size()) / Documents::words;
        BOOST_TEST(std::abs(share - 1.0 / Documents::variants) < 0.07);
    }
}

BOOST_AUTO_TEST_CASE(no_document_repeats_a_passage_of_another) {
    constexpr std::size_t passage = 16;
    std::set<Tokens> passages;
    std::size_t count = 0;
    for (const auto& tokens : {document(training, 0), document(training, 1), document(training, 9000),
                               document(validation, 0), document(validation, 1)}) {
        std::set<Tokens> own;
        for (std::size_t t = 0; t + passage <= tokens.size(); ++t) {
            const auto first = tokens.begin() + static_cast<Index>(t);
            own.emplace(first, first + passage);
        }
        count += own.size();
        passages.merge(own);
    }
    BOOST_TEST(passages.size() == count);
}

// Which word follows is the same in every document, so it can be learnt; which variant is not.
BOOST_AUTO_TEST_CASE(the_next_word_is_local_knowledge) {
    std::map<std::int32_t, std::map<std::int32_t, double>> followers;
    for (Index index = 0; index < 32; ++index) {
        const Tokens tokens = document(training, index);
        for (std::size_t t = 1; t < tokens.size(); ++t) {
            followers[word_of(tokens[t - 1])][word_of(tokens[t])] += 1;
        }
    }
    double nats = 0;
    double count = 0;
    const Tokens tokens = document(validation, 0);
    for (std::size_t t = 1; t < tokens.size(); ++t) {
        const auto& after = followers.at(word_of(tokens[t - 1]));
        double total = 0;
        for (const auto& [word, times] : after) {
            total += times;
        }
        const auto found = after.find(word_of(tokens[t]));
        nats -= std::log((found == after.end() ? 0.5 : found->second) / total);
        ++count;
    }
    BOOST_TEST(std::exp(nats / count) < 9.0);
    BOOST_TEST(std::exp(nats / count) > 3.0);
}

// A word comes back after a long time often enough that each doubling of the context pays.
BOOST_AUTO_TEST_CASE(words_return_at_all_distances) {
    std::array<double, 6> beyond{};  // tokens whose word was not among the last 128, 256, ... 4096
    double count = 0;
    for (Index index = 0; index < 16; ++index) {
        std::map<std::int32_t, Index> last;
        const Tokens tokens = document(validation, index);
        for (Index t = 0; t < Documents::document_tokens; ++t) {
            const std::int32_t word = word_of(tokens[static_cast<std::size_t>(t)]);
            if (t >= 8192) {
                for (std::size_t i = 0; i < beyond.size(); ++i) {
                    beyond[i] += t - last[word] > Index{128} << i ? 1 : 0;
                }
                ++count;
            }
            last[word] = t;
        }
    }
    for (double& share : beyond) {
        share /= count;
    }
    BOOST_TEST(beyond[1] > 0.15);                 // 256: the base cannot know them
    BOOST_TEST(beyond[5] < 0.01);                 // 4,096: almost all is there
    for (std::size_t i = 1; i + 1 < beyond.size(); ++i) {
        BOOST_TEST(beyond[i] - beyond[i + 1] > 0.004);
    }
}

BOOST_AUTO_TEST_CASE(a_small_vocabulary_and_a_wrong_range_are_refused) {
    CHECK_INPUT_ERROR(Documents(training, Documents::vocabulary - 1), "the model's vocabulary");
    const Documents documents(validation, Documents::vocabulary);
    CHECK_INPUT_ERROR(read(documents, {documents.size() - 1, documents.size() + 1}), "have no tokens");
    CHECK_INPUT_ERROR(read(documents, {-1, 1}), "have no tokens");
}

}  // namespace
}  // namespace longlora
