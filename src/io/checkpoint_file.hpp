#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/view.hpp"
#include "io/durable.hpp"
#include "io/hdf5.hpp"

// step-########.h5: trainables and their moments as logical tensors under their names, independent
// of the rank count. /trainable/<name>, /moments/first/<name>, /moments/second/<name>, each with a
// digest; attributes of the run at the root, with a digest over them.
namespace longlora {

// A tensor's place in the flat array of all trainables.
struct CheckpointTensor {
    std::string name;
    Index rows = 0;
    Index columns = 0;  // 0: a vector of `rows` elements
    Index offset = 0;

    Index size() const { return columns == 0 ? rows : rows * columns; }
    std::vector<Index> shape() const {
        return columns == 0 ? std::vector{rows} : std::vector{rows, columns};
    }
};

// What one rank holds: elements `range` of the flat array. The ranks' ranges cover it without
// overlap, each span has range.size() elements.
template <class T>
struct CheckpointPart {
    Range range;
    std::span<T> weights;
    std::span<T> first;  // moments of AdamW
    std::span<T> second;
};

// Collective over the world, with the same path, attributes and tensors on each rank. Written to
// path.tmp and renamed when it is safe on disk; on an error every rank throws, and `path` is as it
// was.
void write_checkpoint(const std::string& path, const Attributes& attributes,
                      std::span<const CheckpointTensor> tensors,
                      const CheckpointPart<const float>& mine);

// Collective; any rank count reads what any other has written. Verifies all of the file; on damage
// or when the file holds other tensors every rank throws.
Attributes read_checkpoint(const std::string& path, std::span<const CheckpointTensor> tensors,
                           const CheckpointPart<float>& mine);

// Attributes and tensor table alone (offsets follow the sorted names), verified, by one process.
struct CheckpointDescription {
    Attributes attributes;
    std::vector<CheckpointTensor> tensors;
};
CheckpointDescription describe_checkpoint(const std::string& path);

// Collective: whether all of the file is as it was written. `notify` hears why not, on rank 0.
bool is_intact_checkpoint(const std::string& path, const Notify& notify);

struct LoadedCheckpoint {
    std::string path;
    Index step = 0;
    Attributes attributes;
};

// Collective: reads the newest intact checkpoint of a folder. Damaged ones are passed over, and
// `notify` hears of each, on rank 0. Nothing when the folder has none; an Error when none is intact
// or the newest intact one belongs to other tensors.
std::optional<LoadedCheckpoint> load_newest_checkpoint(const std::string& folder,
                                                       std::span<const CheckpointTensor> tensors,
                                                       const CheckpointPart<float>& mine,
                                                       const Notify& notify);

// For one process (rank 0):
std::string checkpoint_path(const std::string& folder, Index step);  // folder/step-00000200.h5
std::vector<Index> checkpoint_steps(const std::string& folder);      // newest first
void prune_checkpoints(const std::string& folder, Index keep);       // leaves the last `keep` >= 1
void remove_unfinished_checkpoints(const std::string& folder);  // what a killed run left as .tmp
// Renames those of later steps than `step`, which a run that goes on from there has passed over as
// damaged: else they would count among the last that are kept, and push out intact ones.
void set_aside_later_checkpoints(const std::string& folder, Index step, const Notify& notify);

}  // namespace longlora
