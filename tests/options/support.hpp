#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "core/error.hpp"
#include "options/invocation.hpp"

namespace longlora::test {

inline constexpr const char* default_ini = "[run]\nname = demonstration\n[train]\nsteps = 7\n";

inline Invocation parse_words(std::vector<const char*> words) {
    words.insert(words.begin(), "longlora_hpc");
    return parse(static_cast<int>(words.size()), words.data(), default_ini);
}

// The message of the Error (bad input) that `work` throws; empty when it throws none.
template <class Work>
std::string refusal(const Work& work) {
    try {
        work();
    } catch (const Error& error) {
        BOOST_TEST((error.code() == ExitCode::bad_input), error.what());
        return error.what();
    }
    return "";
}

inline bool contains(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

// An INI file that lives as long as the object.
class IniFile {
public:
    explicit IniFile(const std::string& content) {
        std::string pattern = (std::filesystem::temp_directory_path() / "longlora_XXXXXX").string();
        folder_ = mkdtemp(pattern.data());
        std::ofstream(path()) << content;
    }
    ~IniFile() { std::filesystem::remove_all(folder_); }
    IniFile(const IniFile&) = delete;
    IniFile& operator=(const IniFile&) = delete;

    std::string path() const { return (folder_ / "run.ini").string(); }

private:
    std::filesystem::path folder_;
};

}  // namespace longlora::test
