#include "io/checkpoint_file.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <functional>

#include "comm/communicator.hpp"
#include "comm/environment.hpp"
#include "core/error.hpp"
#include "core/fault_point.hpp"
#include "core/text.hpp"
#include "io/checkpoint_parts.hpp"
#include "io/hdf5_together.hpp"

namespace longlora {
namespace {

CheckpointPart<const float> as_source(const CheckpointPart<float>& part) {
    return {part.range, part.weights, part.first, part.second};
}

CheckpointTensor describe_tensor(const Hdf5File& file, const std::string& name, Digests& digests) {
    CheckpointTensor tensor{name, 0, 0, 0};
    std::vector<Index> shape;
    for (const std::string& group : checkpoint_groups) {
        const Hdf5Dataset dataset = file.dataset(join({group, name}, "/"));
        if (group == checkpoint_groups.front()) {
            shape = dataset.shape();
        }
        const Attribute digest = dataset.attribute(digest_name);
        require((shape.size() == 1 || shape.size() == 2) && dataset.shape() == shape &&
                    std::holds_alternative<std::uint64_t>(digest),
                damaged_file(file.path()) + "the entries of " + name + " do not fit each other");
        digests.push_back(std::get<std::uint64_t>(digest));
    }
    tensor.rows = shape[0];
    tensor.columns = shape.size() == 2 ? shape[1] : 0;
    return tensor;
}

DescribedCheckpoint describe(const Hdf5File& file) {
    DescribedCheckpoint found;
    for (const std::string& name : file.names(checkpoint_groups.front())) {
        const Index offset = total_size(found.content.tensors);
        found.content.tensors.push_back(describe_tensor(file, name, found.digests));
        found.content.tensors.back().offset = offset;
    }
    Attributes& attributes = found.content.attributes;
    attributes = file.attributes();
    const auto stored = attributes.extract(attributes_digest_name);
    require(!stored.empty() &&
                stored.mapped() ==
                    Attribute(digest_attributes(attributes, found.content.tensors, found.digests)),
            damaged_file(file.path()) + "its attributes do not match their digest");
    return found;
}

std::string shape_text(const CheckpointTensor& tensor) {
    return tensor.name + " [" + std::to_string(tensor.rows) +
           (tensor.columns > 0 ? ", " + std::to_string(tensor.columns) : "") + "]";
}

// Each rank reads its own part by itself, so that a rank with an error leaves none waiting.
void read_part(const std::string& path, std::span<const CheckpointTensor> tensors,
               const CheckpointPart<float>& mine) {
    fault_point("load");
    const Hdf5File file = Hdf5File::open(path);
    for (const CheckpointTensor& tensor : tensors) {
        const Range elements = elements_in(tensor, mine.range);
        for (std::size_t g = 0; g < group_count && !elements.empty(); ++g) {
            file.dataset(checkpoint_groups[g] + "/" + tensor.name)
                .read(elements, values_of(tensor, elements, mine.range, arrays_of(mine)[g]));
        }
    }
}

void read_and_verify(const std::string& path, std::span<const CheckpointTensor> tensors,
                     const CheckpointPart<float>& mine, const Digests& expected) {
    together(SharedWork::independent, [&] { read_part(path, tensors, mine); });
    const Digests found = digest_tensors(tensors, as_source(mine));
    const auto differing = std::mismatch(found.begin(), found.end(), expected.begin()).first;
    if (differing != found.end()) {  // on every rank alike
        const auto t = static_cast<std::size_t>(differing - found.begin()) / group_count;
        throw Error::of_all_ranks(
            damaged_file(path) + tensors[t].name + " does not match its digest",
            ExitCode::bad_input);
    }
}

// The step of "step-00000200.h5", or nothing.
std::optional<Index> step_of(const std::string& name) {
    constexpr std::string_view prefix = "step-";
    constexpr std::string_view suffix = ".h5";
    if (!name.starts_with(prefix) || !name.ends_with(suffix) ||
        name.size() <= prefix.size() + suffix.size()) {
        return std::nullopt;
    }
    Index step = 0;
    const char* const end = name.data() + name.size() - suffix.size();
    const auto [rest, error] = std::from_chars(name.data() + prefix.size(), end, step);
    return error == std::errc() && rest == end && step >= 0 ? std::optional(step) : std::nullopt;
}

// Rank 0's view of the folder: another node's may be older.
std::vector<Index> agreed_steps(const std::string& folder) {
    std::vector<std::string> texts;
    if (world_rank() == 0) {
        for (const Index step : checkpoint_steps(folder)) {
            texts.push_back(std::to_string(step));
        }
    }
    std::vector<Index> steps;
    for (const std::string& text :
         split(Communicator<Cpu>::world().broadcast_text(join(texts, ","), 0), ',')) {
        steps.push_back(std::stoll(text));
    }
    return steps;
}

// Collective: what is wrong with the file that `read` reads, or "". For errors that all ranks share.
std::string fault_of(const std::function<void()>& read) {
    try {
        read();
        return "";
    } catch (const Error& error) {
        if (!error.seen_by_all()) {
            throw;
        }
        return error.what();
    }
}

// Collective: describes the file, and says what is wrong with it.
std::string describe_or_fault(const std::string& path, DescribedCheckpoint& file) {
    const auto look = [&] { file = describe_with_digests(path); };
    return fault_of([&] { together(SharedWork::independent, look); });
}

// Rank 0 speaks for all.
Notify of_root(const Notify& notify) {
    return world_rank() == 0 ? notify : [](const std::string&) {};
}

}  // namespace

std::string damaged_file(const std::string& path) { return path + " is damaged: "; }

DescribedCheckpoint describe_with_digests(const std::string& path) {
    const Hdf5File file = Hdf5File::open(path);
    require(file.contains(checkpoint_groups[0]) && file.contains(checkpoint_groups[1]) &&
                file.contains(checkpoint_groups[2]),
            path + " is not a checkpoint: it has no " +
                join({checkpoint_groups.begin(), checkpoint_groups.end()}, ", "));
    return describe(file);
}

Digests match_tensors(const std::string& path, const DescribedCheckpoint& file,
                      std::span<const CheckpointTensor> tensors) {
    constexpr auto remedy =
        "; it belongs to a run with another model or other tune options: resume with those, or "
        "choose another run.directory";
    const std::vector<CheckpointTensor>& held = file.content.tensors;
    Digests digests(group_count * tensors.size());
    for (std::size_t t = 0; t < tensors.size(); ++t) {
        const auto found = std::find_if(held.begin(), held.end(), [&](const auto& candidate) {
            return candidate.name == tensors[t].name && candidate.shape() == tensors[t].shape();
        });
        require(found != held.end(), path + " does not hold " + shape_text(tensors[t]) + remedy);
        for (std::size_t g = 0; g < group_count; ++g) {
            digests[digest_place(g, t)] =
                file.digests[digest_place(g, static_cast<std::size_t>(found - held.begin()))];
        }
    }
    require(held.size() == tensors.size(), path + " holds " + std::to_string(held.size()) +
                                               " tensors instead of " +
                                               std::to_string(tensors.size()) + remedy);
    return digests;
}

Attributes read_checkpoint(const std::string& path, std::span<const CheckpointTensor> tensors,
                           const CheckpointPart<float>& mine) {
    check_parts(tensors, as_source(mine));
    DescribedCheckpoint file;
    Digests digests;
    together(SharedWork::independent, [&] {
        file = describe_with_digests(path);
        digests = match_tensors(path, file, tensors);
    });
    read_and_verify(path, tensors, mine, digests);
    return file.content.attributes;
}

CheckpointDescription describe_checkpoint(const std::string& path) {
    return describe_with_digests(path).content;
}

bool is_intact_checkpoint(const std::string& path, const Notify& notify) {
    DescribedCheckpoint file;
    std::string fault = describe_or_fault(path, file);
    if (fault.empty()) {
        const std::vector<CheckpointTensor>& tensors = file.content.tensors;
        const Range mine = equal_pieces(total_size(tensors), world_size(),
                                        1)[static_cast<std::size_t>(world_rank())];
        std::array<std::vector<float>, group_count> values;
        values.fill(std::vector<float>(static_cast<std::size_t>(mine.size())));
        const CheckpointPart<float> part{mine, values[0], values[1], values[2]};
        fault = fault_of([&] { read_and_verify(path, tensors, part, file.digests); });
    }
    if (!fault.empty()) {
        of_root(notify)(fault + passed_over);
    }
    return fault.empty();
}

std::optional<LoadedCheckpoint> load_newest_checkpoint(const std::string& folder,
                                                       std::span<const CheckpointTensor> tensors,
                                                       const CheckpointPart<float>& mine,
                                                       const Notify& notify) {
    check_parts(tensors, as_source(mine));
    const std::vector<Index> steps = agreed_steps(folder);
    DescribedCheckpoint file;
    const auto load = [&](const std::string& path) {
        std::string fault = describe_or_fault(path, file);
        if (!fault.empty()) {
            return fault;
        }
        Digests digests;
        together(SharedWork::independent, [&] { digests = match_tensors(path, file, tensors); });
        return fault_of([&] { read_and_verify(path, tensors, mine, digests); });
    };
    const auto step = newest_intact(folder, steps, of_root(notify), load);
    if (step) {
        return LoadedCheckpoint{checkpoint_path(folder, *step), *step, file.content.attributes};
    }
    if (!steps.empty()) {
        throw Error::of_all_ranks(
            "no checkpoint in " + folder + " is intact; remove the folder to start anew",
            ExitCode::bad_input);
    }
    return std::nullopt;
}

std::string checkpoint_path(const std::string& folder, Index step) {
    std::string digits = std::to_string(step);
    digits.insert(0, digits.size() < 8 ? 8 - digits.size() : 0, '0');
    return folder + "/step-" + digits + ".h5";
}

std::vector<Index> checkpoint_steps(const std::string& folder) {
    std::vector<Index> steps;
    for (const std::string& name : list_files(folder)) {
        if (const auto step = step_of(name)) {
            steps.push_back(*step);
        }
    }
    std::sort(steps.rbegin(), steps.rend());
    return steps;
}

void prune_checkpoints(const std::string& folder, Index keep) {
    const std::vector<Index> steps = checkpoint_steps(folder);
    for (auto i = static_cast<std::size_t>(std::max<Index>(keep, 1)); i < steps.size(); ++i) {
        fault_point("prune");
        std::remove(checkpoint_path(folder, steps[i]).c_str());
    }
}

void set_aside_later_checkpoints(const std::string& folder, Index step, const Notify& notify) {
    for (const Index later : checkpoint_steps(folder)) {
        if (later > step) {
            const std::string path = checkpoint_path(folder, later);
            notify(path + " was passed over; it is kept as " + set_aside(path));
        }
    }
}

void remove_unfinished_checkpoints(const std::string& folder) {
    for (const std::string& name : list_files(folder)) {
        if (name.ends_with(".tmp") && step_of(name.substr(0, name.size() - 4))) {
            std::remove(join({folder, name}, "/").c_str());
        }
    }
}

}  // namespace longlora
