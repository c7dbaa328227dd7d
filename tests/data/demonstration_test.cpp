#include "data/demonstration.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
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
constexpr auto words = static_cast<std::size_t>(Documents::topics * Documents::topic_words);

Tokens read(const Documents& documents, Range range) {
    Tokens tokens(static_cast<std::size_t>(range.size()));
    documents.read(range, tokens);
    return tokens;
}

Tokens document(bool is_validation, Index index) {
    return read({is_validation, Documents::vocabulary},
                {index * Documents::document_tokens, (index + 1) * Documents::document_tokens});
}

BOOST_AUTO_TEST_CASE(any_range_reads_the_same_tokens) {
    const Documents documents(training, Documents::vocabulary);
    const Index begin = 3 * Documents::document_tokens - 1000;
    const Tokens whole = read(documents, {begin, begin + 2 * Documents::document_tokens});
    for (const Range part : {Range{0, 0}, Range{0, 1}, Range{999, 1001}, Range{1000, 17384},
                             Range{17383, 17385}, Range{5, 20000}}) {
        const Range range{begin + part.begin, begin + part.end};
        const Documents others(training, Documents::vocabulary + 7);  // for a larger model, too
        const Tokens tokens = read(others, range);
        BOOST_TEST(std::equal(tokens.begin(), tokens.end(), whole.begin() + part.begin));
        BOOST_TEST(read(documents, range) == tokens);
    }
}

// config/demonstration was trained on these documents: others need another base.
BOOST_AUTO_TEST_CASE(the_documents_are_what_they_were) {
    const auto digest = [](const Tokens& tokens) {
        return format_digest(digest_of(std::as_bytes(std::span(tokens))));
    };
    BOOST_TEST(digest(document(training, 0)) == "fdf86b7926ab5a78");
    BOOST_TEST(digest(document(training, 16383)) == "e160b3548073307d");
    BOOST_TEST(digest(document(validation, 0)) == "0c5084092f001cbe");
}

BOOST_AUTO_TEST_CASE(a_document_has_one_variant_of_each_word) {
    for (const bool is_validation : {training, validation}) {
        std::vector<std::set<std::int32_t>> tokens_of(2);
        for (const Index index : {0, 1}) {
            std::map<std::int32_t, std::int32_t> token_of;
            for (const std::int32_t token : document(is_validation, index)) {
                BOOST_REQUIRE((0 <= token && token < Documents::vocabulary));
                if (Documents::is_heading(token)) {
                    continue;
                }
                const auto known = token_of.emplace(Documents::word_of(token), token).first;
                BOOST_REQUIRE(known->second == token);
                tokens_of[static_cast<std::size_t>(index)].insert(token);
            }
            BOOST_TEST(token_of.size() == words);
        }
        Tokens common;  // two documents agree on a word by chance only
        std::ranges::set_intersection(tokens_of[0], tokens_of[1], std::back_inserter(common));
        const double share = static_cast<double>(common.size()) / words;
        BOOST_TEST(std::abs(share - 1.0 / Documents::variants) < 0.1);
    }
}

BOOST_AUTO_TEST_CASE(no_document_repeats_a_passage_of_another) {
    constexpr std::size_t passage = 24;
    std::set<Tokens> passages;
    std::size_t count = 0;
    for (const auto& tokens :
         {document(training, 0), document(training, 1), document(training, 9000),
          document(validation, 0), document(validation, 1)}) {
        std::set<Tokens> own;
        for (auto first = tokens.begin(); first + passage <= tokens.end(); ++first) {
            own.emplace(first, first + passage);
        }
        count += own.size();
        passages.merge(own);
    }
    BOOST_TEST(passages.size() == count);
}

// Words, and behind them the headings.
constexpr auto symbols = words + static_cast<std::size_t>(Documents::headings);

std::size_t symbol_of(std::int32_t token) {
    return Documents::is_heading(token)
               ? words + static_cast<std::size_t>(token - Documents::first_heading)
               : static_cast<std::size_t>(Documents::word_of(token));
}

// How often a symbol follows another under a heading; the documents' language, learnt from some.
class Followers {
public:
    explicit Followers(Index documents)
        : times_(static_cast<std::size_t>(Documents::headings) * symbols * symbols, 0.01) {
        for (Index index = 0; index < documents; ++index) {
            const Tokens tokens = document(training, index);
            std::size_t heading = symbol_of(tokens[0]);
            for (std::size_t t = 1; t < tokens.size(); ++t) {
                times_[place(heading, tokens[t - 1], tokens[t])] += 1;
                heading = Documents::is_heading(tokens[t]) ? symbol_of(tokens[t]) : heading;
            }
        }
        for (auto row = times_.begin(); row != times_.end(); row += symbols) {
            double total = 0;
            std::for_each_n(row, symbols, [&](double count) { total += count; });
            std::for_each_n(row, symbols, [&](double& count) { count /= total; });
        }
    }
    double share(std::size_t heading, std::int32_t token, std::int32_t next) const {
        return times_[place(heading, token, next)];
    }

private:
    static std::size_t place(std::size_t heading, std::int32_t token, std::int32_t next) {
        return ((heading - words) * symbols + symbol_of(token)) * symbols + symbol_of(next);
    }
    std::vector<double> times_;
};

// The perplexity of a listener who knows the language and remembers `context` tokens.
double best_perplexity(const Followers& followers, Index context) {
    double nats = 0;
    double scored = 0;
    for (Index index = 0; index < 4; ++index) {
        std::vector<Index> last(symbols, -context - 1);
        const Tokens tokens = document(validation, index);
        std::size_t heading = symbol_of(tokens[0]);
        for (std::size_t t = 1; t < tokens.size(); ++t) {
            const std::int32_t token = tokens[t];
            const auto now = static_cast<Index>(t);
            const bool has_variants = !Documents::is_heading(token);
            Index& seen = last[symbol_of(token)];
            if (now >= 8192) {
                const bool is_known = now - seen <= context || !has_variants;
                nats -= std::log(followers.share(heading, tokens[t - 1], token) /
                                 (is_known ? 1 : Documents::variants));
                ++scored;
            }
            seen = now;
            heading = has_variants ? heading : symbol_of(token);
        }
    }
    return std::exp(nats / scored);
}

BOOST_AUTO_TEST_CASE(perplexity_can_fall_with_every_doubling_of_the_context) {
    const Followers followers(64);
    double shorter = best_perplexity(followers, 256);
    BOOST_TEST(shorter < 4.5);
    BOOST_TEST(best_perplexity(followers, 4096) < 0.78 * shorter);
    for (const Index context : {512, 1024, 2048, 4096}) {
        const double perplexity = best_perplexity(followers, context);
        BOOST_TEST_MESSAGE("context " << context << ": " << perplexity);
        BOOST_TEST(perplexity < 0.995 * shorter);
        shorter = perplexity;
    }
    BOOST_TEST(best_perplexity(followers, 8192) > 0.95 * shorter);  // not much is left
}

BOOST_AUTO_TEST_CASE(a_small_vocabulary_and_a_wrong_range_are_refused) {
    CHECK_INPUT_ERROR(Documents(training, Documents::vocabulary - 1),
                      "the model's vocabulary has 1537");
    const Documents documents(validation, Documents::vocabulary);
    const Index end = documents.size();
    CHECK_INPUT_ERROR(read(documents, {end - 1, end + 1}), "have no tokens");
    CHECK_INPUT_ERROR(read(documents, {-1, 1}), "have no tokens");
}

}  // namespace
}  // namespace longlora
