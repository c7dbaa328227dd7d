#include "data/text_files.hpp"

#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "support/files.hpp"

namespace longlora {
namespace {

using test::TemporaryFolder;
using test::write_file;

std::vector<Document> documents(const std::vector<std::filesystem::path>& paths) {
    std::vector<Document> found;
    for_each_document(paths, [&](const Document& document) { found.push_back(document); });
    return found;
}

BOOST_AUTO_TEST_CASE(a_text_file_is_one_document) {
    const TemporaryFolder folder;
    const auto path = write_file(folder / "a.txt", "\xef\xbb\xbfone\r\n\ntwo \xc3\xa9\n");
    const auto found = documents({path, write_file(folder / "empty.md", "")});
    BOOST_TEST(found.size() == 2U);
    BOOST_TEST(found.at(0).text == "one\r\n\ntwo \xc3\xa9\n");
    BOOST_TEST(found.at(0).prompt.empty());
    BOOST_TEST(found.at(0).source == path.string());
    BOOST_TEST(found.at(1).text.empty());
}

BOOST_AUTO_TEST_CASE(a_folder_is_all_its_files_sorted) {
    const TemporaryFolder folder;
    write_file(folder / "b.txt", "3");
    write_file(folder / "a/z.txt", "1");
    write_file(folder / "a.txt", "2");
    write_file(folder / "c.jsonl", "{\"text\": \"4\"}\n{\"text\": \"5\"}");
    std::string order;
    for (const auto& document : documents({folder.path(), folder / "b.txt"})) {
        order += document.text;
    }
    BOOST_TEST(order == "123453");
    std::filesystem::create_directory(folder / "none");
    CHECK_INPUT_ERROR(documents({folder / "none"}), "none holds no files");
    CHECK_INPUT_ERROR(documents({folder / "missing"}),
                      "cannot open " + (folder / "missing").string());
}

BOOST_AUTO_TEST_CASE(json_lines_hold_texts_or_instructions) {
    const TemporaryFolder folder;
    const auto path = write_file(folder / "x.jsonl",
                                 "{\"text\": \"a\\nb\", \"id\": 3}\r\n"
                                 "  \n"
                                 "{\"prompt\": \"Q \\u00e9\", \"completion\": \"A\"}");
    const auto found = documents({path});
    BOOST_TEST(found.size() == 2U);
    BOOST_TEST(found.at(0).text == "a\nb");
    BOOST_TEST(found.at(1).prompt == "Q \xc3\xa9");
    BOOST_TEST(found.at(1).text == "A");
    BOOST_TEST(found.at(1).source == path.string() + ":3");
}

BOOST_AUTO_TEST_CASE(faults_name_file_and_line) {
    const TemporaryFolder folder;
    const auto refused = [&](const std::string& name, const std::string& content,
                             const std::string& part) {
        const auto path = write_file(folder / name, content);
        CHECK_INPUT_ERROR(documents({path}), path.string() + part);
    };
    refused("a.txt", "fine\nfine\nnot \xe9 fine\n", ":3 is not valid UTF-8");
    refused("a.jsonl", "{\"text\": \"a\"}\n{\"text\": \"a\"", ":2 is not valid JSON");
    refused("b.jsonl", "{\"text\": \"\xff\"}\n", ":1 is not valid JSON");
    refused("c.jsonl", "{\"text\": \"\\ud800\"}\n", ":1 is not valid JSON");
    refused("d.jsonl", "[1]\n", ":1 must hold one JSON object");
    refused("e.jsonl", "{\"text\": 3}\n", ":1: \"text\" is 3, but must be a string");
    refused("f.jsonl", "{\"prompt\": \"a\"}\n", ":1 must have either \"text\" or both");
    refused("g.jsonl", "{\"text\": \"\", \"prompt\": \"\", \"completion\": \"\"}\n",
            ":1 must have either");
}

BOOST_AUTO_TEST_CASE(utf8_is_valid_up_to_the_first_wrong_byte) {
    const std::vector<std::pair<std::string, std::size_t>> cases = {
        {"", 0},
        {std::string("a\0b", 3), 3},
        {"\xc2\x80\xdf\xbf", 4},
        {"\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbf", 12},
        {"\xf0\x90\x80\x80\xf4\x8f\xbf\xbf", 8},
        {"a\x80", 1},             // a continuation alone
        {"\xc0\x80", 0},          // overlong
        {"\xc1\xbf", 0},          //
        {"\xe0\x9f\xbf", 0},      //
        {"\xf0\x8f\xbf\xbf", 0},  //
        {"\xed\xa0\x80", 0},      // a surrogate
        {"\xf4\x90\x80\x80", 0},  // above U+10FFFF
        {"\xf5\x80\x80\x80", 0},  //
        {"ab\xe2\x82", 2},        // cut
        {"ab\xe2\x82z", 2},       //
        {"ab\xf0\x9f\x98", 2},    //
        {"ab\xc3", 2}};
    for (const auto& [text, valid] : cases) {
        BOOST_TEST(valid_utf8_prefix(text) == valid);
    }
}

}  // namespace
}  // namespace longlora
