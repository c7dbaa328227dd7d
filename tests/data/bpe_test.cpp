#include "data/bpe.hpp"

#include <algorithm>
#include <map>
#include <random>

#include <boost/test/unit_test.hpp>

#include "data/byte_alphabet.hpp"
#include "data/text_splitter.hpp"
#include "data/utf8.hpp"
#include "support/files.hpp"

namespace longlora {
namespace {

using Row = std::vector<std::int32_t>;

// As the paper has it: the whole row is looked through for each merge.
void join_slowly(const std::vector<Bpe::Merge>& merges, Row& row) {
    while (true) {
        const auto stands_in_row = [&](const Bpe::Merge& merge) {
            const Row pair{merge.left, merge.right};
            return std::search(row.begin(), row.end(), pair.begin(), pair.end()) != row.end();
        };
        const auto merge = std::find_if(merges.begin(), merges.end(), stands_in_row);
        if (merge == merges.end()) {
            return;
        }
        const Row pair{merge->left, merge->right};
        const auto at = std::search(row.begin(), row.end(), pair.begin(), pair.end());
        *at = merge->joined;
        row.erase(at + 1);
    }
}

// Of four letters and what earlier merges have made of them.
std::vector<Bpe::Merge> random_merges(std::mt19937& random) {
    std::vector<Bpe::Merge> merges;
    std::map<std::pair<std::int32_t, std::int32_t>, bool> is_there;
    for (std::int32_t joined = 4; joined < 24; ++joined) {
        std::uniform_int_distribution<std::int32_t> any(0, joined - 1);
        const auto left = any(random);
        const auto right = any(random);
        if (!std::exchange(is_there[{left, right}], true)) {
            merges.push_back({left, right, joined});
        }
    }
    return merges;
}

BOOST_AUTO_TEST_CASE(the_first_in_rank_is_joined_first_and_the_leftmost_of_them) {
    std::mt19937 random(7);
    for (int turn = 0; turn < 200; ++turn) {
        const auto merges = random_merges(random);
        Row row(static_cast<std::size_t>(turn));
        std::generate(row.begin(), row.end(),
                      [&] { return static_cast<std::int32_t>(random() % 4); });
        Row expected = row;
        join_slowly(merges, expected);
        Bpe(merges).join(row);
        BOOST_TEST(row == expected, boost::test_tools::per_element());
    }
}

// A novel may be one row: each merge must not look through all of it.
BOOST_AUTO_TEST_CASE(a_long_row_is_joined_in_pairs_of_pairs) {
    const std::vector<Bpe::Merge> merges = {{0, 0, 1}, {1, 1, 2}, {2, 2, 3}};
    Row row(8 * 100000 + 3, 0);
    Bpe(merges).join(row);
    BOOST_TEST(row.size() == 100002);
    BOOST_TEST(std::count(row.begin(), row.end(), 3) == 100000);
    BOOST_TEST((row[100000] == 1 && row[100001] == 0));
}

BOOST_AUTO_TEST_CASE(bytes_have_an_alphabet) {
    BOOST_TEST(byte_alphabet()['A'] == "A");
    BOOST_TEST(byte_alphabet()[' '] == "\xC4\xA0");   // U+0120, the well-known one
    BOOST_TEST(byte_alphabet()['\n'] == "\xC4\x8A");  // U+010A
    BOOST_TEST(byte_alphabet()[0xFF] == "\xC3\xBF");  // U+00FF, itself
    std::string all;
    for (int byte = 0; byte < 256; ++byte) {
        all.push_back(static_cast<char>(byte));
    }
    BOOST_TEST(from_byte_alphabet(in_byte_alphabet(all)) == all);
    BOOST_TEST(from_byte_alphabet("\xE4\xBD\xA0") == "\xE4\xBD\xA0");  // not of it
    BOOST_TEST(utf8_size("\xE4\xBD\xA0x") == 3);
    BOOST_TEST(utf8_size("\xE4\xBD") == 1);  // cut off
}

BOOST_AUTO_TEST_CASE(pieces_have_no_gaps) {
    const TextSplitter words(R"(\p{L}+|\s+(?!\S))", "test");
    const std::vector<std::string_view> expected = {"na\xC3\xAFve", ", ", "two", "  ",
                                                    " 3 ",          "x",  "\n"};
    const auto pieces = words.split("na\xC3\xAFve, two   3 x\n");
    BOOST_TEST(pieces == expected, boost::test_tools::per_element());
    BOOST_TEST(words.split("").empty());
    CHECK_INPUT_ERROR(words.split("caf\xE9"), "give it as UTF-8");
    CHECK_INPUT_ERROR(TextSplitter("(", "test"),
                      "test splits text by a pattern that is not understood");
}

}  // namespace
}  // namespace longlora
