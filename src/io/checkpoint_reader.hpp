#pragma once

#include <map>
#include <span>
#include <string>

#include "io/checkpoint_file.hpp"

namespace longlora {

// The trainables of a checkpoint, one tensor at a time and by one process: of a file larger than
// memory no more is held than is asked for.
class CheckpointReader {
public:
    // An Error when the file is damaged, or holds other tensors than these.
    CheckpointReader(const std::string& path, std::span<const CheckpointTensor> tensors);

    const std::string& path() const { return file_.path(); }
    bool has(const std::string& tensor) const { return tensors_.contains(tensor); }

    // The whole tensor, compared with its digest.
    void read(const std::string& tensor, std::span<float> out) const;
    void verify() const;  // reads all of them, a piece at a time

private:
    struct Entry {
        Index size;
        std::uint64_t digest;
    };
    void check(const std::string& tensor, std::uint64_t found) const;

    Hdf5File file_;
    std::map<std::string, Entry> tensors_;
};

// The path of the newest checkpoint of a folder whose trainables are intact. Damaged ones are passed
// over, and `notify` hears of each; an Error when none is intact, or when it holds other tensors.
std::string newest_intact_checkpoint(const std::string& folder,
                                     std::span<const CheckpointTensor> tensors,
                                     const Notify& notify);

}  // namespace longlora
