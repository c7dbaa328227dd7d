#include "io/checkpoint_file.hpp"

#include <algorithm>
#include <bit>
#include <fstream>
#include <numeric>

#include <boost/test/unit_test.hpp>

#include "comm/environment.hpp"
#include "core/random.hpp"
#include "support/shared_folder.hpp"

namespace longlora {
namespace {

using test::SharedFolder;

// Odd shapes: wider than a chunk, longer than one, a single element, an empty tensor.
const std::vector<CheckpointTensor> tensors = [] {
    std::vector<CheckpointTensor> table{{"base_model.model.model.embed_tokens.weight", 131, 30, 0},
                                        {"model.layers.0.self_attn.q_proj.lora_A.weight", 3, 7, 0},
                                        {"model.layers.0.self_attn.q_proj.lora_B.weight", 7, 3, 0},
                                        {"model.layers.0.input_layernorm.weight", 7, 0, 0},
                                        {"wide", 2, 262147, 0},
                                        {"long", 262145, 0, 0},
                                        {"empty", 0, 0, 0},
                                        {"one", 1, 1, 0}};
    Index offset = 0;
    for (CheckpointTensor& tensor : table) {
        tensor.offset = offset;
        offset += tensor.size();
    }
    return table;
}();
const Index total = tensors.back().offset + tensors.back().size();

const Attributes attributes{{"step", std::int64_t{200}},
                            {"seed", ~std::uint64_t{0}},
                            {"train.learning_rate", 2e-5},
                            {"run.name", std::string("")},
                            {"model.path", std::string("base")}};

// What each place holds; `version` tells checkpoints apart.
float value_at(int array, Index i, std::uint64_t version = 0) {
    const std::uint64_t key =
        random_key(version, Purpose::dropout, static_cast<std::uint64_t>(array));
    return static_cast<float>(random_uniform(key, static_cast<std::uint64_t>(i))) - 0.5F;
}

struct Part {
    explicit Part(Range range) : range(range) {
        for (auto& array : arrays) {
            array.resize(static_cast<std::size_t>(range.size()), -7.0F);
        }
    }
    Part(Range range, std::uint64_t version) : Part(range) {
        for (int a = 0; a < 3; ++a) {
            for (Index i = range.begin; i < range.end; ++i) {
                at(a, i) = value_at(a, i, version);
            }
        }
    }
    float& at(int array, Index i) {
        return arrays[static_cast<std::size_t>(array)][static_cast<std::size_t>(i - range.begin)];
    }
    CheckpointPart<const float> source() const { return {range, arrays[0], arrays[1], arrays[2]}; }
    CheckpointPart<float> target() { return {range, arrays[0], arrays[1], arrays[2]}; }
    bool operator==(const Part&) const = default;

    Range range;
    std::array<std::vector<float>, 3> arrays;
};

// Ways to deal the flat array to the ranks.
Range even() {
    const Index rank = world_rank();
    return {total * rank / world_size(), total * (rank + 1) / world_size()};
}
Range all_on(int owner) {
    const int rank = world_rank();
    return {rank <= owner ? 0 : total, rank < owner ? 0 : total};
}
Range uneven() {  // cuts inside rows
    const Index ranks = world_size();
    const auto border = [&](Index r) {
        return r == ranks ? total : total * r * r / (ranks * ranks);
    };
    return {border(world_rank()), border(world_rank() + 1)};
}

void write(const std::string& path, Range range, std::uint64_t version = 0) {
    Attributes own = attributes;
    own["version"] = version;
    write_checkpoint(path, own, tensors, Part(range, version).source());
}

bool reads_back(const std::string& path, Range range, std::uint64_t version = 0) {
    Part part(range);
    const Attributes found = read_checkpoint(path, tensors, part.target());
    Attributes expected = attributes;
    expected["version"] = version;
    return found == expected && part == Part(range, version);
}

// The message of the Error that all ranks throw alike, with this exit code.
template <class Action>
std::string shared_error(const Action& action, ExitCode code = ExitCode::bad_input) {
    try {
        action();
    } catch (const Error& error) {
        BOOST_TEST(error.seen_by_all());
        BOOST_TEST((error.code() == code), error.what());
        return error.what();
    }
    return "(no error)";
}

void on_first_rank(const std::function<void()>& action) {
    Communicator<Cpu>::world().barrier();
    if (world_rank() == 0) {
        action();
    }
    Communicator<Cpu>::world().barrier();
}

void flip_byte(const std::string& path, std::uint64_t at, unsigned char bits = 0x40) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(static_cast<std::streamoff>(at));
    const char old = static_cast<char>(file.get());
    file.seekp(static_cast<std::streamoff>(at));
    file.put(static_cast<char>(static_cast<unsigned char>(old) ^ bits));
}

BOOST_AUTO_TEST_CASE(any_deal_of_the_elements_writes_what_any_other_reads) {
    const SharedFolder folder;
    const int last = world_size() - 1;
    int n = 0;
    for (const Range writer : {even(), all_on(0), all_on(last), uneven()}) {
        const std::string path = folder / ("step-" + std::to_string(n++) + ".h5");
        write(path, writer);
        for (const Range reader : {even(), all_on(0), all_on(last), uneven()}) {
            BOOST_TEST(reads_back(path, reader));
        }
        BOOST_TEST(!std::filesystem::exists(path + ".tmp"));
    }
}

BOOST_AUTO_TEST_CASE(other_tools_find_tensors_under_their_names) {
    const SharedFolder folder;
    const std::string path = folder / "step-00000001.h5";
    write(path, even());
    const Hdf5File file = Hdf5File::open(path);
    for (const CheckpointTensor& tensor : tensors) {
        int array = 0;
        for (const char* group : {"/trainable/", "/moments/first/", "/moments/second/"}) {
            const Hdf5Dataset dataset = file.dataset(group + tensor.name);
            BOOST_TEST((dataset.shape() == tensor.shape()));
            BOOST_TEST((dataset.type() == Hdf5Type::float32));
            const std::vector<float> values = dataset.read_all<float>();
            bool is_right = true;
            for (Index i = 0; i < tensor.size(); ++i) {
                is_right = is_right && values[static_cast<std::size_t>(i)] ==
                                           value_at(array, tensor.offset + i);
            }
            BOOST_TEST(is_right, group + tensor.name);
            ++array;
        }
    }
}

BOOST_AUTO_TEST_CASE(a_description_needs_one_process_and_no_table) {
    const SharedFolder folder;
    const std::string path = folder / "step-00000001.h5";
    write(path, even(), 3);
    const CheckpointDescription found = describe_checkpoint(path);
    BOOST_TEST(std::get<double>(found.attributes.at("train.learning_rate")) == 2e-5);
    BOOST_TEST(std::get<std::uint64_t>(found.attributes.at("version")) == 3U);
    BOOST_TEST(found.attributes.size() == attributes.size() + 1);
    BOOST_TEST(found.tensors.size() == tensors.size());
    for (const CheckpointTensor& tensor : tensors) {
        BOOST_TEST(std::count_if(found.tensors.begin(), found.tensors.end(), [&](const auto& held) {
                       return held.name == tensor.name && held.shape() == tensor.shape();
                   }) == 1);
    }
}

// More small tensors than rank 0 collects at a time, with padding between them.
BOOST_AUTO_TEST_CASE(many_small_tensors_are_collected_in_batches) {
    const SharedFolder folder;
    std::vector<CheckpointTensor> table;
    for (Index i = 0; i < 6; ++i) {
        table.push_back({"layers." + std::to_string(i), 512, 500, i * 256016});
    }
    const Index end = 6 * 256016;
    const Index rank = world_rank();
    const Part part(Range{end * rank / world_size(), end * (rank + 1) / world_size()}, 5);
    write_checkpoint(folder / "a.h5", attributes, table, part.source());
    Part back(part.range);
    BOOST_TEST((read_checkpoint(folder / "a.h5", table, back.target()) == attributes));
    const auto is_tensor = [](Index i) { return i % 256016 < 256000; };
    bool is_right = true;
    for (Index i = part.range.begin; i < part.range.end; ++i) {
        for (int a = 0; a < 3; ++a) {
            is_right = is_right && (back.at(a, i) == value_at(a, i, 5) || !is_tensor(i));
        }
    }
    BOOST_TEST(is_right);
}

BOOST_AUTO_TEST_CASE(bits_survive_that_compare_unequal) {
    const SharedFolder folder;
    const std::vector<CheckpointTensor> table{{"odd", 4, 0, 0}};
    const std::vector<float> values{std::bit_cast<float>(0x7fc12345U), -0.0F,
                                    std::bit_cast<float>(1U), std::bit_cast<float>(0xff800000U)};
    const Range range = world_rank() == 0 ? Range{0, 4} : Range{4, 4};
    const std::span<const float> mine(values.data(), static_cast<std::size_t>(range.size()));
    write_checkpoint(folder / "a.h5", {}, table, {range, mine, mine, mine});
    Part part(range);
    BOOST_TEST(read_checkpoint(folder / "a.h5", table, part.target()).empty());
    for (std::size_t i = 0; i < mine.size(); ++i) {
        BOOST_TEST(std::bit_cast<std::uint32_t>(part.arrays[2][i]) ==
                   std::bit_cast<std::uint32_t>(values[i]));
    }
}

BOOST_AUTO_TEST_CASE(the_newest_intact_checkpoint_is_loaded) {
    const SharedFolder folder;
    std::vector<std::string> notices;
    const Notify notify = [&](const std::string& message) { notices.push_back(message); };
    Part part(even());
    BOOST_TEST(!load_newest_checkpoint(folder.path(), tensors, part.target(), notify));
    BOOST_TEST(!load_newest_checkpoint(folder / "none", tensors, part.target(), notify));
    for (const Index step : {9, 10, 100000000}) {
        write(checkpoint_path(folder.path(), step), uneven(), static_cast<std::uint64_t>(step));
    }
    on_first_rank([&] { test::write_file(folder / "step-00000300.h5.tmp", "half"); });
    const auto load = [&] {
        return load_newest_checkpoint(folder.path(), tensors, part.target(), notify);
    };
    const auto newest = load();
    BOOST_TEST(newest->step == 100000000);
    BOOST_TEST((part == Part(even(), 100000000)));
    BOOST_TEST(notices.empty());

    on_first_rank([&] {  // in the middle of the data; then cut short
        const std::string path = folder / "step-100000000.h5";
        flip_byte(path, std::filesystem::file_size(path) / 2);
        std::filesystem::resize_file(folder / "step-00000010.h5", 100000);
    });
    const auto older = load();
    BOOST_TEST(older->step == 9);
    BOOST_TEST(older->path == folder / "step-00000009.h5");
    BOOST_TEST((part == Part(even(), 9)));
    BOOST_TEST(std::get<std::uint64_t>(older->attributes.at("version")) == 9U);
    BOOST_TEST(notices.size() == (world_rank() == 0 ? 2U : 0U));
    for (const std::string& notice : notices) {
        BOOST_TEST(test::contains(notice, "trying the checkpoint before it"), notice);
    }

    on_first_rank([&] { test::write_file(folder / "step-00000009.h5", ""); });
    const std::string message = shared_error(load);
    BOOST_TEST(test::contains(message, "no checkpoint in " + folder.path() + " is intact"),
               message);
}

// Wherever a byte changes, it is noticed, or it has no meaning.
BOOST_AUTO_TEST_CASE(changed_bytes_are_noticed) {
    const SharedFolder folder;
    const std::string good = folder / "good.h5";
    const std::string bad = folder / "bad.h5";
    // A small file: more of its bytes are HDF5's own structure.
    const std::vector<CheckpointTensor> table{
        {"lora_A.weight", 3, 7, 0}, {"lora_B.weight", 7, 3, 21}, {"norm.weight", 7, 0, 42}};
    const Range range = world_rank() == 0 ? Range{0, 49} : Range{0, 0};
    const Part part(range, 1);
    write_checkpoint(good, attributes, table, part.source());
    const std::uint64_t size = std::filesystem::file_size(good);
    int noticed = 0;
    const int rounds = world_size() == 1 ? 100 : 20;
    for (int round = 0; round < rounds; ++round) {
        on_first_rank([&] {
            const std::uint64_t bits = random_bits(7, static_cast<std::uint64_t>(round));
            std::filesystem::copy_file(good, bad,
                                       std::filesystem::copy_options::overwrite_existing);
            flip_byte(bad, bits % size, static_cast<unsigned char>(1U << (bits >> 61U)));
        });
        Part back(range);
        try {
            BOOST_TEST((read_checkpoint(bad, table, back.target()) == attributes));
            BOOST_TEST((back == part));
        } catch (const Error& error) {
            BOOST_TEST(error.seen_by_all());
            ++noticed;
        }
    }
    BOOST_TEST(noticed > rounds / 10);
}

// HDF5's own checksums do not see what another program changed on purpose; the digests do.
BOOST_AUTO_TEST_CASE(changed_content_is_noticed) {
    const SharedFolder folder;
    const std::string good = folder / "good.h5";
    const std::string edited = folder / "edited.h5";
    write(good, even());
    const auto copy = [&](const std::string& option, float added) {
        const Hdf5File from = Hdf5File::open(good);
        Hdf5File to = Hdf5File::create(edited);
        Attributes all = from.attributes();
        all["model.path"] = option;
        to.write_attributes(all);
        for (const char* group : {"/trainable", "/moments", "/moments/first", "/moments/second"}) {
            to.create_group(group);
        }
        for (const char* group : {"/trainable", "/moments/first", "/moments/second"}) {
            for (const std::string& name : from.names(group)) {
                const std::string path = std::string(group) + "/" + name;
                const Hdf5Dataset old = from.dataset(path);
                std::vector<float> values = old.read_all<float>();
                if (path == "/moments/second/one") {
                    values.at(0) += added;
                }
                Hdf5Dataset copied = to.create_dataset(path, {.shape = old.shape()});
                copied.write_attributes(old.attributes());
                copied.write(Range{0, old.size()}, std::span<const float>(values));
            }
        }
        to.close();
    };
    on_first_rank([&] { copy("base", 0); });
    BOOST_TEST(reads_back(edited, even()));
    on_first_rank([&] { copy("Base", 0); });
    const std::string attribute = shared_error([&] { reads_back(edited, even()); });
    BOOST_TEST(test::contains(attribute, "edited.h5 is damaged: its attributes"), attribute);
    on_first_rank([&] { copy("base", 0.25F); });
    const std::string value = shared_error([&] { reads_back(edited, even()); });
    BOOST_TEST(test::contains(value, "edited.h5 is damaged: one does not match"), value);
}

BOOST_AUTO_TEST_CASE(another_table_of_tensors_is_refused_and_not_taken_for_damage) {
    const SharedFolder folder;
    write(folder / "step-00000001.h5", even());
    write(folder / "step-00000002.h5", even());
    const auto load = [&](const std::vector<CheckpointTensor>& table) {
        const Range range =
            world_rank() == 0 ? Range{0, table.back().offset + table.back().size()} : Range{0, 0};
        Part part(range);
        load_newest_checkpoint(folder.path(), table, part.target(), [](const std::string& message) {
            BOOST_ERROR("taken for damage: " + message);
        });
    };
    std::vector<CheckpointTensor> table = tensors;
    table[1] = {table[1].name, 7, 3, table[1].offset};
    const std::string shape = shared_error([&] { load(table); });
    BOOST_TEST(test::contains(shape, "step-00000002.h5 does not hold " + table[1].name + " [7, 3]"),
               shape);
    table = tensors;
    table.pop_back();
    const std::string fewer = shared_error([&] { load(table); });
    BOOST_TEST(test::contains(fewer, "holds 8 tensors instead of 7"), fewer);
}

BOOST_AUTO_TEST_CASE(a_failed_write_leaves_what_was_there) {
    const SharedFolder folder;
    const std::string path = folder / "step-00000001.h5";
    write(path, even(), 1);
    on_first_rank([&] { std::filesystem::create_directory(path + ".tmp"); });
    const std::string message = shared_error([&] { write(path, even(), 2); }, ExitCode::failure);
    BOOST_TEST(test::contains(message, "step-00000001.h5.tmp: Is a directory"), message);
    BOOST_TEST(reads_back(path, even(), 1));

    Part part(even());
    part.arrays[1].push_back(0);
    const auto wrong = [&] { write_checkpoint(path, attributes, tensors, part.source()); };
    BOOST_TEST(test::contains(shared_error(wrong, ExitCode::failure), "another size"));
    Part overlapping(Range{0, total});
    const auto twice = [&] { write_checkpoint(path, attributes, tensors, overlapping.source()); };
    if (world_size() > 1) {
        BOOST_TEST(test::contains(shared_error(twice, ExitCode::failure), "do not cover"));
        const Attributes own{{"rank", std::int64_t{world_rank()}}};
        const auto differ = [&] { write_checkpoint(path, own, tensors, Part(even(), 1).source()); };
        BOOST_TEST(test::contains(shared_error(differ, ExitCode::failure), "disagree"));
    }
    BOOST_TEST(reads_back(path, even(), 1));
}

BOOST_AUTO_TEST_CASE(space_is_reserved_before_anything_is_written) {
    const SharedFolder folder;
    if (world_rank() == 0) {
        const std::string path = folder / "large";
        try {
            reserve_space(path, Index{1} << 60U);
            BOOST_ERROR("an exbibyte was reserved");
        } catch (const Error& error) {
            BOOST_TEST(test::contains(error.what(), "which needs"), error.what());
            BOOST_TEST((error.code() == ExitCode::failure));
        }
        reserve_space(path, 4096);
        BOOST_TEST(std::filesystem::file_size(path) == 0U);
    }
}

BOOST_AUTO_TEST_CASE(names_listing_and_pruning) {
    BOOST_TEST(checkpoint_path("runs/a", 200) == "runs/a/step-00000200.h5");
    BOOST_TEST(checkpoint_path("a", 1234567890) == "a/step-1234567890.h5");
    if (world_rank() != 0) {
        return;
    }
    const test::TemporaryFolder folder;
    const std::string path = folder.path();
    for (const char* name :
         {"step-00000010.h5", "step-00000009.h5", "step-1234567890.h5", "step-00000008.h5",
          "step-.h5", "step-1x.h5", "notes.h5", "step-00000011.h5.tmp", "mine.tmp"}) {
        test::write_file(folder / name, "x");
    }
    BOOST_TEST((checkpoint_steps(path) == std::vector<Index>{1234567890, 10, 9, 8}));
    prune_checkpoints(path, 3);
    BOOST_TEST((checkpoint_steps(path) == std::vector<Index>{1234567890, 10, 9}));
    prune_checkpoints(path, 0);
    BOOST_TEST((checkpoint_steps(path) == std::vector<Index>{1234567890}));
    remove_unfinished_checkpoints(path);
    BOOST_TEST(!std::filesystem::exists(folder / "step-00000011.h5.tmp"));
    for (const char* name : {"step-.h5", "step-1x.h5", "notes.h5", "mine.tmp"}) {
        BOOST_TEST(std::filesystem::exists(folder / name));
    }
    BOOST_TEST(checkpoint_steps(folder / "none").empty());
}

}  // namespace
}  // namespace longlora
