#pragma once

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <source_location>
#include <string>

#include "core/error.hpp"

namespace longlora::test {

// A fresh folder that goes away with the object.
class TemporaryFolder {
public:
    TemporaryFolder() {
        static int count = 0;
        path_ = std::filesystem::temp_directory_path() /
                ("longlora_test_" + std::to_string(getpid()) + "_" + std::to_string(count++));
        std::filesystem::create_directories(path_);
    }
    ~TemporaryFolder() {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    TemporaryFolder(const TemporaryFolder&) = delete;
    TemporaryFolder& operator=(const TemporaryFolder&) = delete;

    const std::filesystem::path& path() const { return path_; }
    std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

private:
    std::filesystem::path path_;
};

inline std::filesystem::path write_file(const std::filesystem::path& path,
                                        const std::string& content) {
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << content;
    return path;
}

inline std::string read_file(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

// The real data beside the checkout, which not every machine has: says so and returns "" then.
inline std::filesystem::path shared_data(const std::string& name) {
    const std::filesystem::path here = std::source_location::current().file_name();
    const auto path = here.parent_path() / "../../../shared/data" / name;
    if (!std::filesystem::exists(path)) {
        std::cout << "left out: there is no " << path.lexically_normal().string() << std::endl;
        return {};
    }
    return path;
}

// The message of the Error (exit code 2) that `action` throws; another outcome is told instead.
template <class Action>
std::string input_error(const Action& action) {
    try {
        action();
    } catch (const Error& error) {
        return error.code() == ExitCode::bad_input ? error.what()
                                                   : std::string("not exit 2: ") + error.what();
    }
    return "(no error)";
}

inline bool contains(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

}  // namespace longlora::test

// The action must throw an Error for the user whose message has `part` in it.
#define CHECK_INPUT_ERROR(action, part)                                                     \
    do {                                                                                    \
        const std::string message = ::longlora::test::input_error([&] { (void)(action); }); \
        BOOST_TEST(::longlora::test::contains(message, part),                               \
                   message << "\n    lacks: " << (part));                                   \
    } while (false)
