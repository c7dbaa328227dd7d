#include "io/durable.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <utility>

#include "core/error.hpp"
#include "core/fault_point.hpp"
#include "core/system_reason.hpp"
#include "core/text.hpp"

namespace longlora {
namespace {

std::string reason() { return system_reason(errno); }

// Some file systems cannot sync a folder; then the server keeps its names safe.
void sync(const std::string& path, int flags, bool is_folder) {
    const int descriptor = open(path.c_str(), flags | O_CLOEXEC);
    ensure(descriptor >= 0, "cannot open " + path + " to sync it: " + reason());
    const int result = fsync(descriptor);
    const int error = errno;
    close(descriptor);
    errno = error;
    const bool is_unsupported = is_folder && (error == EINVAL || error == ENOTSUP);
    ensure(result == 0 || is_unsupported, "cannot sync " + path + " to disk: " + reason());
}

}  // namespace

void sync_file(const std::string& path) { sync(path, O_RDONLY, false); }

void sync_folder(const std::string& path) {
    sync(path.empty() ? "." : path, O_RDONLY | O_DIRECTORY, true);
}

void reserve_space(const std::string& path, Index bytes) {
    const int descriptor = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    ensure(descriptor >= 0, "cannot create " + path + ": " + reason());
    struct rlimit limit {};
    const bool is_beyond_limit =
        getrlimit(RLIMIT_FSIZE, &limit) == 0 && static_cast<rlim_t>(bytes) > limit.rlim_cur;
    // The file keeps its length; publish() frees blocks that it does not come to use.
    const bool is_reserved = fallocate(descriptor, FALLOC_FL_KEEP_SIZE, 0, bytes) == 0;
    const int error = is_beyond_limit ? EFBIG : is_reserved ? 0 : errno;
    struct statvfs disk {};
    const bool is_known = fstatvfs(descriptor, &disk) == 0;
    close(descriptor);
    const double free = static_cast<double>(disk.f_bavail) * static_cast<double>(disk.f_frsize);
    const bool is_unsupported = error == EOPNOTSUPP || error == ENOSYS || error == EINVAL;
    const bool fits =
        error == 0 || (is_unsupported && (!is_known || free >= static_cast<double>(bytes)));
    ensure(fits, "cannot write " + path + ", which needs " +
                     format_bytes(static_cast<double>(bytes)) + ": " +
                     system_reason(is_unsupported ? ENOSPC : error));
}

UnfinishedFile::UnfinishedFile(const std::string& path) : final_path_(path), path_(path + ".tmp") {
    require(!std::filesystem::is_directory(path),
            path + " is a folder where a file is to be written; choose another name");
}

UnfinishedFile::~UnfinishedFile() {
    if (!is_published_) {
        std::remove(path_.c_str());
    }
}

void UnfinishedFile::publish() {
    // Frees what reserve_space() has taken beyond the end.
    std::error_code ignored;
    std::filesystem::resize_file(path_, std::filesystem::file_size(path_, ignored), ignored);
    sync_file(path_);
    fault_point("publish");
    ensure(std::rename(path_.c_str(), final_path_.c_str()) == 0,
           "cannot rename " + path_ + " to " + final_path_ + ": " + reason());
    is_published_ = true;
    fault_point("published");
    sync_folder(folder_of(final_path_));
}

void make_folders(const std::string& path) {
    std::error_code error;
    std::filesystem::create_directories(path, error);
    require(!error, "cannot create the folder " + path + ": " + with_remedy(error.message()));
}

std::string folder_of(const std::string& path) {
    const std::string folder = std::filesystem::path(path).parent_path().string();
    return folder.empty() ? "." : folder;
}

FileIdentity identify(const std::string& path) {
    struct stat status {};
    return stat(path.c_str(), &status) == 0 ? FileIdentity{status.st_dev, status.st_ino}
                                            : FileIdentity{};
}

std::string set_aside(const std::string& path) {
    int n = 1;
    while (std::filesystem::exists(path + ".damaged-" + std::to_string(n))) {
        ++n;
    }
    std::string aside = path + ".damaged-" + std::to_string(n);
    ensure(std::rename(path.c_str(), aside.c_str()) == 0,
           "cannot rename " + path + " to " + aside + ": " + reason());
    return aside;
}

std::vector<std::string> list_files(const std::string& folder) {
    std::error_code error;
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
        if (entry.is_regular_file(error)) {
            names.push_back(entry.path().filename().string());
        }
    }
    std::sort(names.begin(), names.end());
    return names;
}

void write_text(const std::string& path, std::string_view text) {
    UnfinishedFile unfinished(path);
    std::ofstream file(unfinished.path(), std::ios::binary | std::ios::trunc);
    file.write(text.data(), static_cast<std::streamsize>(text.size()));
    file.close();
    ensure(!file.fail(), "cannot write " + unfinished.path() + ": " + reason());
    unfinished.publish();
}

FolderLock::FolderLock(const std::string& folder, const std::string& what,
                       const std::string& option)
    : descriptor_(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
    require(descriptor_ >= 0, "cannot open the folder " + folder + ": " + reason());
    const bool is_taken = flock(descriptor_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    if (is_taken) {
        close(descriptor_);
    }
    require(!is_taken, "another process is writing " + what + " in " + folder +
                           ": wait until it has ended, or choose another " + option);
}

FolderLock::~FolderLock() {
    if (descriptor_ >= 0) {
        close(descriptor_);
    }
}

FolderLock::FolderLock(FolderLock&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)) {}

FolderLock& FolderLock::operator=(FolderLock&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
}

}  // namespace longlora
