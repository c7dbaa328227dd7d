#include "train/run_folder.hpp"

#include <filesystem>

#include <boost/test/unit_test.hpp>

#include "support/files.hpp"

using namespace longlora;
using test::TemporaryFolder;

BOOST_AUTO_TEST_CASE(a_folder_is_held_by_one_run) {
    const TemporaryFolder parent;
    const RunFolder folder{parent / "run"};
    BOOST_TEST(!lock_run(folder).is_held());  // nothing is made
    BOOST_TEST(!std::filesystem::exists(folder.path));
    {
        const FolderLock lock = begin_run(folder);
        BOOST_TEST(lock.is_held());
        CHECK_INPUT_ERROR(lock_run(folder), "another process is writing a run in " + folder.path);
    }
    BOOST_TEST(lock_run(folder).is_held());
}

BOOST_AUTO_TEST_CASE(a_run_that_began_meanwhile_is_not_begun_again) {
    const TemporaryFolder parent;
    const RunFolder folder{parent / "run"};
    begin_run(folder);  // and ended
    test::write_file(folder.log(), "rows");
    CHECK_INPUT_ERROR(begin_run(folder), "another run has begun in " + folder.path);
}
