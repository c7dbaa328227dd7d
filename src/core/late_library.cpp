#include "core/late_library.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "core/error.hpp"
#include "core/text.hpp"

namespace longlora {
namespace {

namespace fs = std::filesystem;

std::string environment(const char* variable) {
    const char* const value = std::getenv(variable);
    return value == nullptr ? "" : value;
}

// /usr/local/cuda and, behind it, /usr/local/cuda-13.0 and the like, the newest first.
std::vector<std::string> installed_toolkits() {
    std::vector<std::string> found;
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator("/usr/local", ignored)) {
        if (entry.path().filename().string().starts_with("cuda-")) {
            found.push_back(entry.path().string());
        }
    }
    std::sort(found.rbegin(), found.rend());
    found.insert(found.begin(), "/usr/local/cuda");
    return found;
}

// "" is where the system's loader looks.
std::vector<std::string> folders() {
    std::vector<std::string> toolkits{environment("CUDA_HOME"), environment("CUDA_PATH")};
    std::erase(toolkits, "");
    const auto installed = installed_toolkits();
    toolkits.insert(toolkits.end(), installed.begin(), installed.end());

    std::vector<std::string> found{""};
    for (const auto& toolkit : toolkits) {
        found.push_back(toolkit + "/lib64/");
        found.push_back(toolkit + "/targets/x86_64-linux/lib/");
    }
    for (const auto& folder : split(environment("LONGLORA_CUDA_LIBRARIES"), ':')) {
        found.push_back(folder + "/");
    }
    return found;
}

}  // namespace

std::string LateLibrary::open() {
    std::string faults;
    for (const auto& file : files_) {
        for (const auto& folder : folders()) {
            handle_ = dlopen((folder + file).c_str(), RTLD_LAZY | RTLD_LOCAL);
            if (handle_ != nullptr) {
                return "";
            }
            const char* const fault = dlerror();
            if (!folder.empty() && fs::exists(folder + file)) {
                faults += std::string("; ") + fault;
            }
        }
    }
    return faults;
}

bool LateLibrary::is_there() {
    const std::scoped_lock lock(mutex_);
    if (handle_ == nullptr) {
        open();
    }
    return handle_ != nullptr;
}

void* LateLibrary::address_of(const char* function) {
    const std::scoped_lock lock(mutex_);
    const std::string faults = handle_ == nullptr ? open() : "";
    if (handle_ == nullptr) {
        throw Error(
            "there is a GPU, but not the library " + name_ + " (" + join(files_, " or ") +
                ") in the loader's folders, CUDA_HOME or /usr/local/cuda: load the cluster's CUDA "
                "module, or set LONGLORA_CUDA_LIBRARIES to the folder that has it (with PyTorch: "
                ".../site-packages/nvidia/*/lib), or " +
                setting_ + faults,
            ExitCode::failure);
    }
    void* const address = dlsym(handle_, function);
    ensure(address != nullptr, "the library " + name_ + " that was found has no " + function +
                                   ": it is older than this program needs");
    return address;
}

}  // namespace longlora
