#include "train/run_folder.hpp"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include "core/error.hpp"
#include "core/system_reason.hpp"
#include "io/run_log.hpp"

namespace longlora {

std::optional<SavedRun> find_saved_run(const RunFolder& folder, const Notify& notify) {
    for (const Index step : checkpoint_steps(folder.checkpoints())) {
        const std::string path = checkpoint_path(folder.checkpoints(), step);
        try {
            return SavedRun{step, describe_checkpoint(path).attributes};
        } catch (const Error& error) {
            notify(std::string("checkpoint passed over: ") + error.what());
        }
    }
    return std::nullopt;
}

bool holds_run(const RunFolder& folder) {
    return std::filesystem::exists(folder.log()) || !checkpoint_steps(folder.checkpoints()).empty();
}

FolderLock lock_run(const RunFolder& folder) {
    if (!std::filesystem::exists(folder.path)) {
        return {};
    }
    return {folder.path, "a run", "run.directory"};
}

void check_place(const RunFolder& folder) {
    namespace fs = std::filesystem;
    std::error_code ignored;
    fs::path place = fs::absolute(folder.path);
    while (place.has_relative_path() && !fs::exists(place, ignored)) {
        place = place.parent_path();
    }
    const int error = !fs::is_directory(place, ignored)         ? ENOTDIR
                      : access(place.c_str(), W_OK | X_OK) != 0 ? errno
                                                                : 0;
    require(error == 0, "cannot write the run to " + folder.path + ": " + place.string() + ": " +
                            system_reason(error));
}

FolderLock begin_run(const RunFolder& folder) {
    make_folders(folder.checkpoints());
    FolderLock lock = lock_run(folder);
    require(!holds_run(folder), "another run has begun in " + folder.path +
                                    " meanwhile; start again to resume it, or choose another "
                                    "run.directory");
    return lock;
}

bool has_ended(const RunFolder& folder, Index step) {
    if (!is_closed_log(folder.log())) {
        return false;
    }
    try {
        const auto events = read_log(folder.log()).events;
        return std::any_of(events.begin(), events.end(), [&](const EventRow& row) {
            return row.kind == finished_event && row.step == step;
        });
    } catch (const Error&) {
        return false;  // who goes on sets an unreadable log aside
    }
}

std::vector<CheckpointTensor> checkpoint_tensors(const std::vector<Parameter>& table) {
    std::vector<CheckpointTensor> tensors;
    for (const Parameter& parameter : table) {
        tensors.push_back({parameter.shape.name, parameter.shape.rows, parameter.shape.columns,
                           parameter.offset});
    }
    return tensors;
}

std::map<std::string, std::string> text_attributes(const Attributes& attributes) {
    std::map<std::string, std::string> texts;
    for (const auto& [name, value] : attributes) {
        if (const auto* text = std::get_if<std::string>(&value)) {
            texts[name] = *text;
        }
    }
    return texts;
}

}  // namespace longlora
