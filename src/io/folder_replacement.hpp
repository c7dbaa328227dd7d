#pragma once

#include <map>
#include <string>
#include <vector>

#include "core/view.hpp"

namespace longlora {

// A folder of files that is written beside its place and takes it when it is complete: whoever looks
// finds the old content or the new one, never a mixture. What stands there already must be an earlier
// one of these, which export.json in it tells, without any other file: everything else is left alone.
class FolderReplacement {
public:
    // Makes path.tmp with export.json, which lists `files`, the names of all that it will hold, and
    // says the facts.
    FolderReplacement(std::string path, const std::vector<std::string>& files,
                      const std::map<std::string, std::string>& facts);
    ~FolderReplacement();  // removes what was not published
    FolderReplacement(FolderReplacement&& other) noexcept;
    FolderReplacement& operator=(FolderReplacement&&) = delete;
    FolderReplacement(const FolderReplacement&) = delete;
    FolderReplacement& operator=(const FolderReplacement&) = delete;

    static std::string unfinished(const std::string& path) { return path + ".tmp"; }
    // An Error when there is something at `path` that is not to be replaced.
    static void check(const std::string& path);

    void publish();  // all files must be complete

private:
    std::string path_;
    bool is_pending_ = true;
};

// Throws (exit 1) when the disk of a folder that exists has less space than that.
void check_space(const std::string& folder, Index bytes);

}  // namespace longlora
