#include "core/late_library.hpp"

#include <dlfcn.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>

#include <boost/test/unit_test.hpp>

#include "core/error.hpp"
#include "support/files.hpp"

using namespace longlora;
using longlora::test::contains;

namespace {

LateLibrary& mathematics() {
    static LateLibrary library("mathematics", {"libm.so.of_another_time", "libm.so.6"});
    return library;
}

// Where the mathematics of this program came from.
std::filesystem::path mathematics_file() {
    Dl_info info{};
    dladdr(mathematics().address_of("cos"), &info);
    return std::filesystem::canonical(info.dli_fname);
}

std::string failure(LateLibrary& library, const char* function) {
    try {
        library.address_of(function);
    } catch (const Error& error) {
        return error.code() == ExitCode::failure ? error.what() : "another exit code";
    }
    return "(no error)";
}

// LONGLORA_CUDA_LIBRARIES while it lives.
struct Folders {
    explicit Folders(const std::string& list) {
        setenv("LONGLORA_CUDA_LIBRARIES", list.c_str(), 1);
    }
    ~Folders() { unsetenv("LONGLORA_CUDA_LIBRARIES"); }
    Folders(const Folders&) = delete;
    Folders& operator=(const Folders&) = delete;
};

}  // namespace

BOOST_AUTO_TEST_SUITE(late_library_test)

BOOST_AUTO_TEST_CASE(functions_are_called_as_if_they_were_linked) {
    const LateFunction<double(double, double), mathematics> power("pow");
    BOOST_TEST(power(2, 10) == 1024);
    BOOST_TEST(power(3, 2) == 9);
}

BOOST_AUTO_TEST_CASE(folders_of_the_environment_are_searched) {
    const test::TemporaryFolder folder;
    std::filesystem::create_symlink(mathematics_file(), folder / "libonly_here.so.1");
    LateLibrary library("hidden", {"libonly_here.so.1"});
    BOOST_TEST(contains(failure(library, "cos"), "hidden (libonly_here.so.1)"));
    const Folders folders("/nowhere:" + folder.path().string());
    BOOST_TEST(failure(library, "cos") == "(no error)");
}

BOOST_AUTO_TEST_CASE(errors_name_the_remedy) {
    LateLibrary missing("cuExample", {"libcuExample.so.13", "libcuExample.so.12"});
    const std::string message = failure(missing, "create");
    BOOST_TEST(contains(message, "cuExample (libcuExample.so.13 or libcuExample.so.12)"));
    BOOST_TEST(contains(message, "LONGLORA_CUDA_LIBRARIES"));
    BOOST_TEST(contains(failure(mathematics(), "tomorrow"), "has no tomorrow"));
}

BOOST_AUTO_TEST_CASE(a_file_that_does_not_load_is_named_with_the_reason) {
    const test::TemporaryFolder folder;
    const auto file = test::write_file(folder / "libbroken.so.1", "not a library");
    const Folders folders(folder.path().string());
    LateLibrary broken("broken", {"libbroken.so.1"});
    BOOST_TEST(contains(failure(broken, "create"), file.string() + ": "));
}

BOOST_AUTO_TEST_SUITE_END()
