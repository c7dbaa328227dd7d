#include <algorithm>
#include <limits>
#include <optional>

#include "comm/communicator.hpp"
#include "comm/watchdog.hpp"
#include "core/error.hpp"
#include "io/checkpoint_parts.hpp"
#include "io/hdf5_together.hpp"

// Large tensors are written by all ranks together. A collective write of a dataset takes some twenty
// rounds of messages whatever its size, and LoRA has hundreds of small ones: rank 0 collects those,
// a few MiB at a time, and writes them alone.
namespace longlora {
namespace {

constexpr Index batch_elements = 1 << 20U;  // of small tensors, in each group

struct WriteTask {
    std::string path;
    std::span<const CheckpointTensor> tensors;
    CheckpointPart<const float> mine;
    const Digests& digests;
};

Index bytes_needed(std::span<const CheckpointTensor> tensors) {
    Index bytes = Index{4} << 20U;  // attributes and the file's own structure
    for (const CheckpointTensor& tensor : tensors) {
        const Index last_chunk = tensor.size() > checkpoint_chunk ? checkpoint_chunk : 0;
        bytes += 3 * (4 * (tensor.size() + last_chunk) + 4096);
    }
    return bytes;
}

bool is_large(const CheckpointTensor& tensor) { return tensor.size() > checkpoint_chunk; }

Hdf5Dataset create_tensor(Hdf5File& file, const WriteTask& task, std::size_t g, std::size_t t) {
    const CheckpointTensor& tensor = task.tensors[t];
    Hdf5Dataset dataset = file.create_dataset(
        checkpoint_groups[g] + "/" + tensor.name,
        {.type = Hdf5Type::float32, .shape = tensor.shape(), .chunk = checkpoint_chunk});
    dataset.write_attribute(digest_name, task.digests[digest_place(g, t)]);
    return dataset;
}

void create_file(const WriteTask& task) {
    together(SharedWork::independent, [&] {
        if (Communicator<Cpu>::world().rank() == 0) {
            Hdf5File file = Hdf5File::create(task.path);
            for (const char* group :
                 {"/trainable", "/moments", "/moments/first", "/moments/second"}) {
                file.create_group(group, task.tensors.size());
            }
            file.close();
        }
    });
}

// Every rank takes part in each dataset, whether or not it holds some of it.
void write_large_tensors(const WriteTask& task) {
    if (std::none_of(task.tensors.begin(), task.tensors.end(), is_large)) {
        return;
    }
    together(SharedWork::collective, [&] {
        // One for each write: all of them may rightly take longer than comm.timeout.
        std::optional<Watchdog> watchdog(std::in_place);
        Hdf5File file = Hdf5File::extend(task.path, Access::all_ranks);
        for (std::size_t t = 0; t < task.tensors.size(); ++t) {
            const CheckpointTensor& tensor = task.tensors[t];
            const Range elements = elements_in(tensor, task.mine.range);
            for (std::size_t g = 0; g < group_count && is_large(tensor); ++g) {
                watchdog.emplace();
                create_tensor(file, task, g, t)
                    .write(elements,
                           values_of(tensor, elements, task.mine.range, arrays_of(task.mine)[g]));
            }
        }
        watchdog.emplace();
        file.close();
    });
}

// ---- small tensors

using Batch = std::vector<std::size_t>;  // places in the table

std::vector<Batch> small_batches(std::span<const CheckpointTensor> tensors) {
    std::vector<Batch> batches;
    Index held = batch_elements;
    for (std::size_t t = 0; t < tensors.size(); ++t) {
        if (is_large(tensors[t])) {
            continue;
        }
        if (held + tensors[t].size() > batch_elements) {
            batches.emplace_back();
            held = 0;
        }
        batches.back().push_back(t);
        held += tensors[t].size();
    }
    return batches;
}

std::vector<Range> ranges_of_ranks(Range mine) {
    const auto world = Communicator<Cpu>::world();
    std::vector<std::int64_t> borders(2 * static_cast<std::size_t>(world.size()));
    const auto own = 2 * static_cast<std::size_t>(world.rank());
    borders[own] = mine.begin;
    borders[own + 1] = mine.end;
    world.all_reduce_sum(
        View<Cpu, std::int64_t, 1>(borders.data(), static_cast<Index>(borders.size())));
    std::vector<Range> ranges;
    for (std::size_t i = 0; i < borders.size(); i += 2) {
        ranges.push_back({borders[i], borders[i + 1]});
    }
    return ranges;
}

// What a rank with `range` holds of a batch: group by group, tensor by tensor.
Index packed_size(const WriteTask& task, const Batch& batch, Range range) {
    Index size = 0;
    for (const std::size_t t : batch) {
        size += static_cast<Index>(group_count) * elements_in(task.tensors[t], range).size();
    }
    return size;
}

std::vector<float> pack(const WriteTask& task, const Batch& batch) {
    std::vector<float> packed;
    for (const auto& array : arrays_of(task.mine)) {
        for (const std::size_t t : batch) {
            const Range elements = elements_in(task.tensors[t], task.mine.range);
            const auto values = values_of(task.tensors[t], elements, task.mine.range, array);
            packed.insert(packed.end(), values.begin(), values.end());
        }
    }
    return packed;
}

// The whole tensors of a batch, group by group as in pack().
struct Collected {
    std::vector<float> values;

    void unpack(const WriteTask& task, const Batch& batch, Range range,
                std::span<const float> packed) {
        std::size_t from = 0;
        std::size_t to = 0;
        for (std::size_t g = 0; g < group_count; ++g) {
            for (const std::size_t t : batch) {
                const Range elements = elements_in(task.tensors[t], range);
                const auto count = static_cast<std::size_t>(elements.size());
                std::copy_n(packed.data() + from, count,
                            values.data() + to + static_cast<std::size_t>(elements.begin));
                from += count;
                to += static_cast<std::size_t>(task.tensors[t].size());
            }
        }
    }
};

// Collective: on rank 0 the whole tensors of a batch, on others nothing.
Collected collect(const WriteTask& task, const Batch& batch, std::span<const Range> ranges) {
    const auto world = Communicator<Cpu>::world();
    std::vector<float> packed = pack(task, batch);
    Collected collected;
    if (world.rank() != 0) {
        world
            .send(View<Cpu, const float, 1>(packed.data(), static_cast<Index>(packed.size())), 0, 0)
            .wait();
        return collected;
    }
    collected.values.resize(
        static_cast<std::size_t>(packed_size(task, batch, {0, std::numeric_limits<Index>::max()})));
    collected.unpack(task, batch, task.mine.range, packed);
    for (int rank = 1; rank < world.size(); ++rank) {
        const Range range = ranges[static_cast<std::size_t>(rank)];
        packed.resize(static_cast<std::size_t>(packed_size(task, batch, range)));
        world
            .receive(View<Cpu, float, 1>(packed.data(), static_cast<Index>(packed.size())), rank, 0)
            .wait();
        collected.unpack(task, batch, range, packed);
    }
    return collected;
}

void write_batch(const WriteTask& task, const Batch& batch, std::span<const float> values) {
    Hdf5File file = Hdf5File::extend(task.path);
    for (std::size_t g = 0; g < group_count; ++g) {
        for (const std::size_t t : batch) {
            const Index size = task.tensors[t].size();
            const auto count = static_cast<std::size_t>(size);
            create_tensor(file, task, g, t).write(Range{0, size}, values.first(count));
            values = values.subspan(count);
        }
    }
    file.close();
}

void write_small_tensors(const WriteTask& task) {
    const std::vector<Range> ranges = ranges_of_ranks(task.mine.range);
    const bool is_first = Communicator<Cpu>::world().rank() == 0;
    for (const Batch& batch : small_batches(task.tensors)) {
        const Collected collected = collect(task, batch, ranges);
        together(SharedWork::independent, [&] {
            if (is_first) {
                write_batch(task, batch, collected.values);
            }
        });
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
    const WriteTask task{path + ".tmp", tensors, mine, digests};
    create_file(task);
    together(SharedWork::independent, reserve);  // creating the file has freed it
    write_large_tensors(task);
    write_small_tensors(task);
    together(SharedWork::independent, [&] {
        if (unfinished) {
            Hdf5File file = Hdf5File::extend(unfinished->path());
            file.write_attributes(attributes);
            file.write_attribute(attributes_digest_name, digest);
            file.close();
            unfinished->publish();
        }
    });
}

}  // namespace longlora
