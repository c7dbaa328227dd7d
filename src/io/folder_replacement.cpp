#include "io/folder_replacement.hpp"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "core/error.hpp"
#include "core/text.hpp"
#include "io/durable.hpp"
#include "io/json.hpp"
#include "io/mapped_file.hpp"

namespace longlora {
namespace {

namespace fs = std::filesystem;

const std::string note_name = "export.json";

std::string in(const std::string& folder, const std::string& file) { return folder + "/" + file; }

// The names that the note lists, and its own.
std::vector<std::string> noted_files(const std::string& path) {
    const std::string note = in(path, note_name);
    const MappedFile file(note);
    const Json json = parse_json_object(file.text(), note);
    std::vector<std::string> names = {note_name};
    const auto listed = json.find("files");
    if (listed != json.end() && listed->is_array()) {
        for (const auto& name : *listed) {
            names.push_back(name.is_string() ? name.get<std::string>() : "");
        }
    }
    return names;
}

std::string without_tmp(const std::string& name) {
    return name.ends_with(".tmp") ? name.substr(0, name.size() - 4) : name;
}

void remove_folder(const std::string& path) {
    FolderReplacement::check(path);
    std::error_code error;
    fs::remove_all(path, error);
    ensure(!error, "cannot remove " + path + ": " + error.message());
}

void rename_folder(const std::string& from, const std::string& to) {
    ensure(std::rename(from.c_str(), to.c_str()) == 0,
           "cannot rename " + from + " to " + to + ": " + std::strerror(errno));
}

// Two folders change places in one step; false where the file system cannot do that (NFS).
bool swap_places(const std::string& a, const std::string& b) {
    return renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE) == 0;
}

}  // namespace

void FolderReplacement::check(const std::string& path) {
    if (!fs::exists(fs::symlink_status(path))) {
        return;
    }
    constexpr auto remedy =
        ", so it is left alone; move it away or choose another export.directory";
    require(fs::is_directory(path), path + " is in the way and no folder" + remedy);
    require(fs::is_empty(path) || fs::is_regular_file(in(path, note_name)),
            path + " has no " + note_name + ", which an earlier export would have" + remedy);
    const auto noted = fs::is_empty(path) ? std::vector<std::string>() : noted_files(path);
    for (const auto& entry : fs::directory_iterator(path)) {
        const std::string name = entry.path().filename().string();
        const bool is_ours = std::ranges::find(noted, without_tmp(name)) != noted.end();
        require(is_ours && entry.is_regular_file(),
                std::string(path)
                    .append(" holds ")
                    .append(name)
                    .append(", which is not of an earlier export")
                    .append(remedy));
    }
}

FolderReplacement::FolderReplacement(std::string path, const std::vector<std::string>& files,
                                     const std::map<std::string, std::string>& facts)
    : path_(std::move(path)) {
    check(path_);
    remove_folder(unfinished(path_));  // what a killed export has left
    make_folders(unfinished(path_));
    Json note = facts;
    note["files"] = files;
    write_text(in(unfinished(path_), note_name),
               note.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

FolderReplacement::FolderReplacement(FolderReplacement&& other) noexcept
    : path_(std::move(other.path_)), is_pending_(std::exchange(other.is_pending_, false)) {}

FolderReplacement::~FolderReplacement() {
    if (is_pending_) {
        std::error_code ignored;
        fs::remove_all(unfinished(path_), ignored);
    }
}

void FolderReplacement::publish() {
    const std::string fresh = unfinished(path_);
    const std::string old = path_ + ".old";
    sync_folder(fresh);
    if (!fs::exists(path_)) {
        rename_folder(fresh, path_);
    } else if (!swap_places(fresh, path_)) {
        remove_folder(old);
        rename_folder(path_, old);
        rename_folder(fresh, path_);
    }
    is_pending_ = false;
    sync_folder(folder_of(path_));
    remove_folder(fresh);  // the old content now, or nothing
    remove_folder(old);
}

void check_space(const std::string& folder, Index bytes) {
    std::error_code error;
    const fs::space_info space = fs::space(folder, error);
    ensure(error || space.available >= static_cast<std::uintmax_t>(bytes),
           "cannot export to " + folder + ": " + format_bytes(static_cast<double>(bytes)) +
               " are needed, but " + format_bytes(static_cast<double>(space.available)) +
               " are free; free some space or choose another export.directory");
}

}  // namespace longlora
