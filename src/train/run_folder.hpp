#pragma once

#include <string>
#include <vector>

#include "io/checkpoint_file.hpp"
#include "model/parameters.hpp"

namespace longlora {

// Where the files of a run lie.
struct RunFolder {
    std::string path;

    std::string log() const { return path + "/log.h5"; }
    std::string checkpoints() const { return path + "/checkpoints"; }
};

// The attributes of the newest checkpoint whose attributes are intact, and its step.
struct SavedRun {
    Index step = 0;
    Attributes attributes;
};
// Nothing when there is no checkpoint; `notify` hears of damaged ones.
std::optional<SavedRun> find_saved_run(const RunFolder& folder, const Notify& notify);
// Whether a run was begun here (a log or a checkpoint).
bool holds_run(const RunFolder& folder);

// By rank 0, before it looks what the folder holds: what another process writes there meanwhile would
// be taken for damaged or left over. Nothing is held where there is no folder yet.
FolderLock lock_run(const RunFolder& folder);
// Error where begin_run(), or the run that is there, could not write: what is seen without writing.
void check_place(const RunFolder& folder);
// Makes the folder of a new run, and holds it; an Error when another run has begun there meanwhile.
FolderLock begin_run(const RunFolder& folder);

constexpr auto finished_event = "finished";
// Whether the log is closed and says that the run has ended with `step`: after the last evaluation.
bool has_ended(const RunFolder& folder, Index step);

std::vector<CheckpointTensor> checkpoint_tensors(const std::vector<Parameter>& table);

std::map<std::string, std::string> text_attributes(const Attributes& attributes);

}  // namespace longlora
