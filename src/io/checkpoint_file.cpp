#include "io/checkpoint_file.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <functional>

#include "comm/communicator.hpp"
#include "comm/environment.hpp"
#include "core/error.hpp"
#include "core/random.hpp"
#include "core/text.hpp"
#include "io/digest.hpp"
#include "io/hdf5_together.hpp"

namespace longlora {
namespace {

constexpr Index chunk_elements = 262144;  // 1 MiB
constexpr auto digest_name = "digest";
constexpr auto attributes_digest_name = "attributes_digest";
const std::array<std::string, 3> groups{"/trainable", "/moments/first", "/moments/second"};

template <class T>
std::array<std::span<T>, 3> arrays_of(const CheckpointPart<T>& part) {
    return {part.weights, part.first, part.second};
}

// The elements of a tensor that lie in a range of the flat array, counted from the tensor's begin.
Range elements_in(const CheckpointTensor& tensor, Range range) {
    const Index begin = std::clamp<Index>(range.begin - tensor.offset, 0, tensor.size());
    return {begin, std::clamp<Index>(range.end - tensor.offset, begin, tensor.size())};
}

template <class T>
std::span<T> values_of(const CheckpointTensor& tensor, Range elements, Range range,
                       std::span<T> array) {
    const Index begin = elements.empty() ? 0 : tensor.offset + elements.begin - range.begin;
    return array.subspan(static_cast<std::size_t>(begin),
                         static_cast<std::size_t>(elements.size()));
}

// ---- digests

// A sum over elements modulo 2^64, so that it can be formed in pieces, cut anywhere.
std::uint64_t digest_elements(Range elements, std::span<const float> values) {
    std::uint64_t sum = 0;
    auto index = static_cast<std::uint64_t>(elements.begin);
    for (const float value : values) {
        sum += mix_bits(index << 32U ^ std::bit_cast<std::uint32_t>(value));
        ++index;
    }
    return sum;
}

using Digests = std::vector<std::uint64_t>;  // of each tensor in each group

std::size_t place(std::size_t group, std::size_t tensor) { return tensor * groups.size() + group; }

// Collective. Of the whole tensors, from the parts that the ranks hold.
template <class T>
Digests digest_tensors(std::span<const CheckpointTensor> tensors, const CheckpointPart<T>& mine) {
    Digests digests(groups.size() * tensors.size());
    for (std::size_t t = 0; t < tensors.size(); ++t) {
        const Range elements = elements_in(tensors[t], mine.range);
        for (std::size_t g = 0; g < groups.size(); ++g) {
            digests[place(g, t)] = digest_elements(
                elements, values_of(tensors[t], elements, mine.range, arrays_of(mine)[g]));
        }
    }
    const auto count = static_cast<Index>(digests.size());
    Communicator<Cpu>::world().all_reduce_sum(View<Cpu, std::uint64_t, 1>(digests.data(), count));
    return digests;
}

// Over all that is not a tensor's element: attributes, names, shapes, tensors' digests. It does not
// depend on the order of the tensors.
std::uint64_t digest_attributes(const Attributes& attributes,
                                std::span<const CheckpointTensor> tensors, const Digests& digests) {
    std::uint64_t sum = 0;
    for (const auto& [name, value] : attributes) {
        const std::uint64_t held = std::visit(
            []<class T>(const T& plain) {
                if constexpr (std::is_same_v<T, std::string>) {
                    return digest_of(plain);
                } else {
                    return std::bit_cast<std::uint64_t>(plain);
                }
            },
            value);
        sum += mix_bits(digest_of(name) ^ mix_bits(held + value.index()));
    }
    for (std::size_t t = 0; t < tensors.size(); ++t) {
        std::uint64_t all = digest_of(tensors[t].name);
        all = mix_bits(all ^ static_cast<std::uint64_t>(tensors[t].rows));
        all = mix_bits(all ^ static_cast<std::uint64_t>(tensors[t].columns));
        for (std::size_t g = 0; g < groups.size(); ++g) {
            all = mix_bits(all ^ digests[place(g, t)]);
        }
        sum += all;
    }
    return sum;
}

// ---- what both directions ask of the caller

Index total_size(std::span<const CheckpointTensor> tensors) {
    Index total = 0;
    for (const CheckpointTensor& tensor : tensors) {
        total += tensor.size();
    }
    return total;
}

// Elements of tensors in a range of the flat array, the padding between tensors left out.
Index held_size(std::span<const CheckpointTensor> tensors, Range range) {
    Index held = 0;
    for (const CheckpointTensor& tensor : tensors) {
        held += Range{std::max(range.begin, tensor.offset),
                      std::min(range.end, tensor.offset + tensor.size())}
                    .size();
    }
    return held;
}

template <class T>
void check_parts(std::span<const CheckpointTensor> tensors, const CheckpointPart<T>& mine) {
    const Index held = Communicator<Cpu>::world().sum(held_size(tensors, mine.range));
    together(SharedWork::independent, [&] {
        ensure(held == total_size(tensors), "the ranks' parts do not cover the trainables once");
        for (const auto& array : arrays_of(mine)) {
            ensure(static_cast<Index>(array.size()) == mine.range.size(),
                   "a part of the checkpoint has another size than its range");
        }
        for (const CheckpointTensor& tensor : tensors) {
            ensure(tensor.name.find('/') == std::string::npos,
                   "a tensor's name must not hold a slash: " + tensor.name);
        }
    });
}

// ---- writing

Index bytes_needed(std::span<const CheckpointTensor> tensors) {
    Index bytes = Index{4} << 20U;  // attributes and the file's own structure
    for (const CheckpointTensor& tensor : tensors) {
        const Index last_chunk = tensor.size() > chunk_elements ? chunk_elements : 0;
        bytes += 3 * (4 * (tensor.size() + last_chunk) + 4096);
    }
    return bytes;
}

// Dataset by dataset; every rank takes part in each, whether or not it holds some of it.
void write_tensors(Hdf5File& file, std::span<const CheckpointTensor> tensors,
                   const CheckpointPart<const float>& mine, const Digests& digests) {
    for (const char* group : {"/trainable", "/moments", "/moments/first", "/moments/second"}) {
        file.create_group(group);
    }
    for (std::size_t t = 0; t < tensors.size(); ++t) {
        const Range elements = elements_in(tensors[t], mine.range);
        for (std::size_t g = 0; g < groups.size(); ++g) {
            Hdf5Dataset dataset = file.create_dataset(
                groups[g] + "/" + tensors[t].name,
                {.type = Hdf5Type::float32, .shape = tensors[t].shape(), .chunk = chunk_elements});
            dataset.write_attribute(digest_name, digests[place(g, t)]);
            dataset.write(elements,
                          values_of(tensors[t], elements, mine.range, arrays_of(mine)[g]));
        }
    }
}

// ---- reading

struct Description {
    CheckpointDescription content;
    Digests digests;
};

std::string damaged(const std::string& path) { return path + " is damaged: "; }

CheckpointTensor describe_tensor(const Hdf5File& file, const std::string& name, Digests& digests) {
    CheckpointTensor tensor{name, 0, 0, 0};
    std::vector<Index> shape;
    for (const std::string& group : groups) {
        const Hdf5Dataset dataset = file.dataset(group + "/" + name);
        if (group == groups.front()) {
            shape = dataset.shape();
        }
        const Attribute digest = dataset.attribute(digest_name);
        require((shape.size() == 1 || shape.size() == 2) && dataset.shape() == shape &&
                    std::holds_alternative<std::uint64_t>(digest),
                damaged(file.path()) + "the entries of " + name + " do not fit each other");
        digests.push_back(std::get<std::uint64_t>(digest));
    }
    tensor.rows = shape[0];
    tensor.columns = shape.size() == 2 ? shape[1] : 0;
    return tensor;
}

Description describe(const Hdf5File& file) {
    Description found;
    for (const std::string& name : file.names(groups.front())) {
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
            damaged(file.path()) + "its attributes do not match their digest");
    return found;
}

Description describe_file(const std::string& path) {
    const Hdf5File file = Hdf5File::open(path);
    require(file.contains(groups[0]) && file.contains(groups[1]) && file.contains(groups[2]),
            path + " is not a checkpoint: it has no " + join({groups.begin(), groups.end()}, ", "));
    return describe(file);
}

std::string shape_text(const CheckpointTensor& tensor) {
    return tensor.name + " [" + std::to_string(tensor.rows) +
           (tensor.columns > 0 ? ", " + std::to_string(tensor.columns) : "") + "]";
}

// The digests in the order of `tensors`, which must be the very tensors of the file.
Digests match(const std::string& path, const Description& file,
              std::span<const CheckpointTensor> tensors) {
    constexpr auto remedy =
        "; it belongs to a run with another model or other tune options: resume with those, or "
        "choose another run.directory";
    const std::vector<CheckpointTensor>& held = file.content.tensors;
    Digests digests(groups.size() * tensors.size());
    for (std::size_t t = 0; t < tensors.size(); ++t) {
        const auto found = std::find_if(held.begin(), held.end(), [&](const auto& candidate) {
            return candidate.name == tensors[t].name && candidate.shape() == tensors[t].shape();
        });
        require(found != held.end(), path + " does not hold " + shape_text(tensors[t]) + remedy);
        for (std::size_t g = 0; g < groups.size(); ++g) {
            digests[place(g, t)] =
                file.digests[place(g, static_cast<std::size_t>(found - held.begin()))];
        }
    }
    require(held.size() == tensors.size(), path + " holds " + std::to_string(held.size()) +
                                               " tensors instead of " +
                                               std::to_string(tensors.size()) + remedy);
    return digests;
}

// Each rank reads its own part by itself, so that a rank with an error leaves none waiting.
void read_part(const std::string& path, std::span<const CheckpointTensor> tensors,
               const CheckpointPart<float>& mine) {
    const Hdf5File file = Hdf5File::open(path);
    for (const CheckpointTensor& tensor : tensors) {
        const Range elements = elements_in(tensor, mine.range);
        for (std::size_t g = 0; g < groups.size() && !elements.empty(); ++g) {
            file.dataset(groups[g] + "/" + tensor.name)
                .read(elements, values_of(tensor, elements, mine.range, arrays_of(mine)[g]));
        }
    }
}

void read_and_verify(const std::string& path, std::span<const CheckpointTensor> tensors,
                     const CheckpointPart<float>& mine, const Digests& expected) {
    together(SharedWork::independent, [&] { read_part(path, tensors, mine); });
    const Digests found = digest_tensors(tensors, mine);
    const auto differing = std::mismatch(found.begin(), found.end(), expected.begin()).first;
    if (differing != found.end()) {  // on every rank alike
        const auto t = static_cast<std::size_t>(differing - found.begin()) / groups.size();
        throw Error::of_all_ranks(damaged(path) + tensors[t].name + " does not match its digest",
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

// Runs `read`; on an Error that all ranks share, tells of it and returns false.
bool is_intact(const Notify& notify, const std::function<void()>& read) {
    try {
        read();
        return true;
    } catch (const Error& error) {
        if (!error.seen_by_all()) {
            throw;
        }
        if (world_rank() == 0) {
            notify(std::string(error.what()) + "; trying the checkpoint before it");
        }
        return false;
    }
}

}  // namespace

void write_checkpoint(const std::string& path, const Attributes& attributes,
                      std::span<const CheckpointTensor> tensors,
                      const CheckpointPart<const float>& mine) {
    check_parts(tensors, mine);
    const Digests digests = digest_tensors(tensors, mine);
    const std::uint64_t digest = digest_attributes(attributes, tensors, digests);
    const auto world = Communicator<Cpu>::world();
    const bool is_same = world.min(digest) == world.max(digest);
    std::optional<UnfinishedFile> unfinished;  // on rank 0, which removes it if anything fails
    const auto reserve = [&] {
        if (unfinished) {
            reserve_space(unfinished->path(), bytes_needed(tensors));
        }
    };
    together(SharedWork::independent, [&] {
        ensure(is_same, "the ranks disagree on the attributes of " + path);
        if (world.rank() == 0) {
            make_folders(folder_of(path));
            unfinished.emplace(path);
        }
        reserve();
    });
    std::optional<Hdf5File> file;
    together(SharedWork::collective,
             [&] { file = Hdf5File::create(path + ".tmp", Access::all_ranks); });
    together(SharedWork::independent, reserve);  // creating the file has freed it
    together(SharedWork::collective, [&] {
        write_tensors(*file, tensors, mine, digests);
        file->write_attributes(attributes);
        file->write_attribute(attributes_digest_name, digest);
        file->close();
    });
    together(SharedWork::independent, [&] {
        if (unfinished) {
            unfinished->publish();
        }
    });
}

Attributes read_checkpoint(const std::string& path, std::span<const CheckpointTensor> tensors,
                           const CheckpointPart<float>& mine) {
    check_parts(tensors, mine);
    Description file;
    Digests digests;
    together(SharedWork::independent, [&] {
        file = describe_file(path);
        digests = match(path, file, tensors);
    });
    read_and_verify(path, tensors, mine, digests);
    return file.content.attributes;
}

CheckpointDescription describe_checkpoint(const std::string& path) {
    return describe_file(path).content;
}

std::optional<LoadedCheckpoint> load_newest_checkpoint(const std::string& folder,
                                                       std::span<const CheckpointTensor> tensors,
                                                       const CheckpointPart<float>& mine,
                                                       const Notify& notify) {
    check_parts(tensors, mine);
    const std::vector<Index> steps = agreed_steps(folder);
    for (const Index step : steps) {
        const std::string path = checkpoint_path(folder, step);
        Description file;
        const auto look = [&] { file = describe_file(path); };
        if (!is_intact(notify, [&] { together(SharedWork::independent, look); })) {
            continue;
        }
        Digests digests;
        together(SharedWork::independent, [&] { digests = match(path, file, tensors); });
        if (is_intact(notify, [&] { read_and_verify(path, tensors, mine, digests); })) {
            return LoadedCheckpoint{path, step, file.content.attributes};
        }
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
        std::remove(checkpoint_path(folder, steps[i]).c_str());
    }
}

void remove_unfinished_checkpoints(const std::string& folder) {
    for (const std::string& name : list_files(folder)) {
        if (name.ends_with(".tmp") && step_of(name.substr(0, name.size() - 4))) {
            std::remove((folder + "/" + name).c_str());
        }
    }
}

}  // namespace longlora
