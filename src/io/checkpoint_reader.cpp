#include "io/checkpoint_reader.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "io/checkpoint_parts.hpp"

namespace longlora {
namespace {

constexpr Index piece = Index{1} << 22U;  // elements verified at a time

std::string dataset_of(const std::string& tensor) { return checkpoint_groups[0] + "/" + tensor; }

// Why the file cannot be used, or nothing.
std::string damage(const std::string& path) {
    try {
        const DescribedCheckpoint file = describe_with_digests(path);
        CheckpointReader(path, file.content.tensors).verify();
        return "";
    } catch (const Error& error) {
        return error.what();
    }
}

}  // namespace

CheckpointReader::CheckpointReader(const std::string& path,
                                   std::span<const CheckpointTensor> tensors)
    : file_(Hdf5File::open(path)) {
    const Digests digests = match_tensors(path, describe_with_digests(path), tensors);
    for (std::size_t t = 0; t < tensors.size(); ++t) {
        tensors_[tensors[t].name] = {tensors[t].size(), digests[digest_place(0, t)]};
    }
}

void CheckpointReader::read(const std::string& tensor, std::span<float> out) const {
    const Range all{0, static_cast<Index>(out.size())};
    ensure(has(tensor) && tensors_.at(tensor).size == all.end,
           path() + " has no tensor " + tensor + " of " + std::to_string(all.end) + " elements");
    file_.dataset(dataset_of(tensor)).read(all, out);
    check(tensor, digest_elements(all, out));
}

void CheckpointReader::verify() const {
    std::vector<float> values;
    for (const auto& [tensor, entry] : tensors_) {
        const Hdf5Dataset dataset = file_.dataset(dataset_of(tensor));
        std::uint64_t found = 0;
        for (Index begin = 0; begin < entry.size; begin += piece) {
            const Range range{begin, std::min(begin + piece, entry.size)};
            values.resize(static_cast<std::size_t>(range.size()));
            dataset.read(range, std::span<float>(values));
            found += digest_elements(range, values);
        }
        check(tensor, found);
    }
}

void CheckpointReader::check(const std::string& tensor, std::uint64_t found) const {
    require(found == tensors_.at(tensor).digest,
            damaged_file(path()) + tensor + " does not match its digest");
}

std::string newest_intact_checkpoint(const std::string& folder,
                                     std::span<const CheckpointTensor> tensors,
                                     const Notify& notify) {
    const auto step = newest_intact(folder, checkpoint_steps(folder), notify, damage);
    require(step.has_value(),
            "no checkpoint in " + folder + " is intact; choose another run.directory");
    std::string path = checkpoint_path(folder, *step);
    const CheckpointReader fits(path, tensors);
    return path;
}

}  // namespace longlora
