#include "core/system_reason.hpp"

#include <array>
#include <cerrno>
#include <cstring>

namespace longlora {
namespace {

struct Remedy {
    int error;
    const char* text;
};
constexpr std::array remedies{
    Remedy{ENOSPC, "free some space there, or choose another place"},
    Remedy{EDQUOT, "free some of the quota, or choose another place"},
    Remedy{EFBIG, "raise the limit on file sizes (ulimit -f), or choose another place"},
    Remedy{EROFS, "choose a place that can be written"},
    Remedy{EACCES, "change its permissions, or choose another place"},
    Remedy{EPERM, "change its permissions, or choose another place"},
    Remedy{ENOENT, "check the path"},
    Remedy{ENOTDIR, "check the path: a part of it is a file, not a folder"},
    Remedy{EISDIR, "check the path: it is a folder, not a file"},
    Remedy{EEXIST, "check the path: a file is in the way"}};

}  // namespace

std::string system_reason(int error) { return with_remedy(std::strerror(error)); }

std::string with_remedy(const std::string& reason) {
    for (const Remedy& remedy : remedies) {
        if (reason == std::strerror(remedy.error)) {
            return reason + "; " + remedy.text;
        }
    }
    return reason;
}

}  // namespace longlora
