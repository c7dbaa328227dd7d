#include "io/folder_replacement.hpp"

#include <filesystem>

#include <boost/test/unit_test.hpp>

#include "io/durable.hpp"
#include "support/files.hpp"

namespace longlora {
namespace {

using test::contains;
using test::read_file;
using test::TemporaryFolder;
using test::write_file;

// Replaces folder/model by one that holds a.txt with this text.
void replace(const TemporaryFolder& folder, const std::string& text) {
    FolderReplacement fresh(folder / "model", {"a.txt"}, {{"step", "3"}});
    write_file(FolderReplacement::unfinished(folder / "model") + "/a.txt", text);
    fresh.publish();
}

std::vector<std::string> names(const std::filesystem::path& folder) {
    std::vector<std::string> found;
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
        found.push_back(entry.path().filename().string());
    }
    std::ranges::sort(found);
    return found;
}

BOOST_AUTO_TEST_CASE(a_folder_takes_the_place_of_an_earlier_one) {
    const TemporaryFolder folder;
    replace(folder, "first");
    BOOST_TEST((names(folder / "model") == std::vector<std::string>{"a.txt", "export.json"}));
    BOOST_TEST(contains(read_file(folder / "model/export.json"), "\"step\": \"3\""));
    replace(folder, "second");
    BOOST_TEST(read_file(folder / "model/a.txt") == "second");
    BOOST_TEST((names(folder.path()) == std::vector<std::string>{"model"}));
}

BOOST_AUTO_TEST_CASE(what_is_not_published_changes_nothing) {
    const TemporaryFolder folder;
    replace(folder, "first");
    {
        const FolderReplacement unused(folder / "model", {"b.txt"}, {});
        write_file(FolderReplacement::unfinished(folder / "model") + "/b.txt", "second");
    }
    BOOST_TEST(read_file(folder / "model/a.txt") == "first");
    BOOST_TEST((names(folder.path()) == std::vector<std::string>{"model"}));
}

BOOST_AUTO_TEST_CASE(what_a_killed_writer_has_left_is_removed) {
    const TemporaryFolder folder;
    replace(folder, "first");
    std::filesystem::rename(folder / "model", folder / "model.tmp");
    write_file(folder / "model.tmp/a.txt.tmp", "half");
    replace(folder, "second");
    BOOST_TEST((names(folder.path()) == std::vector<std::string>{"model"}));
    write_file(folder / "model.tmp/mine.txt", "mine");
    CHECK_INPUT_ERROR(replace(folder, "third"), "model.tmp has no export.json");
    BOOST_TEST(read_file(folder / "model.tmp/mine.txt") == "mine");
}

BOOST_AUTO_TEST_CASE(what_others_have_put_there_is_left_alone) {
    const TemporaryFolder folder;
    std::filesystem::create_directories(folder / "model");
    replace(folder, "over an empty folder");
    write_file(folder / "model/notes.txt", "mine");
    CHECK_INPUT_ERROR(replace(folder, "new"), "holds notes.txt, which is not of an earlier export");
    std::filesystem::remove(folder / "model/notes.txt");
    std::filesystem::create_directories(folder / "model/sub");
    CHECK_INPUT_ERROR(replace(folder, "new"), "holds sub");
    std::filesystem::remove(folder / "model/sub");
    write_file(folder / "model/export.json", "{");
    CHECK_INPUT_ERROR(replace(folder, "new"), "export.json is not valid JSON");
    std::filesystem::remove(folder / "model/export.json");
    CHECK_INPUT_ERROR(replace(folder, "new"), "model has no export.json");
    BOOST_TEST(read_file(folder / "model/a.txt") == "over an empty folder");
    std::filesystem::remove_all(folder / "model");
    write_file(folder / "model", "a file");
    CHECK_INPUT_ERROR(replace(folder, "new"), "is in the way and no folder");
    BOOST_TEST(read_file(folder / "model") == "a file");
}

BOOST_AUTO_TEST_CASE(a_disk_too_small_is_told_beforehand) {
    const TemporaryFolder folder;
    check_space(folder.path().string(), 1);
    BOOST_CHECK_EXCEPTION(
        check_space(folder.path().string(), Index{1} << 62U), Error, [](const Error& error) {
            return error.code() == ExitCode::failure && contains(error.what(), "are needed, but");
        });
}

}  // namespace
}  // namespace longlora
