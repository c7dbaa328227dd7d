#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "core/view.hpp"

// Files that survive a power cut, and names that never show a half-written file.
namespace longlora {

// Who hears of damage that was worked around.
using Notify = std::function<void(const std::string&)>;

void sync_file(const std::string& path);
void sync_folder(const std::string& path);  // "" is the current one
// Makes sure that `path`, which is created, can grow to `bytes`: throws now rather than half-way.
void reserve_space(const std::string& path, Index bytes);
void make_folders(const std::string& path);
std::string folder_of(const std::string& path);

// Tells whether a path still names the same file; two files that are not there are the same.
struct FileIdentity {
    std::uint64_t device = 0;
    std::uint64_t number = 0;
    bool operator==(const FileIdentity&) const = default;
};
FileIdentity identify(const std::string& path);

// Renames a damaged file to the first free <path>.damaged-<n>, which is returned.
std::string set_aside(const std::string& path);

// Names (not paths) of the regular files of a folder, sorted; none when there is no such folder.
std::vector<std::string> list_files(const std::string& folder);

// A file that is written under another name and gets its own when it is complete.
class UnfinishedFile {
public:
    explicit UnfinishedFile(const std::string& path);  // an Error where a folder has the name
    ~UnfinishedFile();                                 // removes what was not published
    UnfinishedFile(const UnfinishedFile&) = delete;
    UnfinishedFile& operator=(const UnfinishedFile&) = delete;

    const std::string& path() const { return path_; }  // where to write it
    void publish();  // syncs it, renames it in one step, syncs the folder

private:
    std::string final_path_;
    std::string path_;
    bool is_published_ = false;
};

// A small file, whole or not at all.
void write_text(const std::string& path, std::string_view text);

// Held by the one process that writes into a folder; freed by the system when the process dies.
class FolderLock {
public:
    FolderLock() = default;
    // Throws when another process holds it: "another process is writing <what> in <folder>: wait until
    // it has ended, or choose another <option>".
    FolderLock(const std::string& folder, const std::string& what, const std::string& option);
    ~FolderLock();
    FolderLock(FolderLock&& other) noexcept;
    FolderLock& operator=(FolderLock&& other) noexcept;

    bool is_held() const { return descriptor_ >= 0; }

private:
    int descriptor_ = -1;
};

}  // namespace longlora
