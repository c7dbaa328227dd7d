// Damaged checkpoints: noticed, and the one before is taken.
#include <fstream>

#include "io/checkpoint_case.hpp"

namespace longlora {
namespace {

using namespace test;

void flip_byte(const std::string& path, std::uint64_t at, unsigned char bits = 0x40) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(static_cast<std::streamoff>(at));
    const char old = static_cast<char>(file.get());
    file.seekp(static_cast<std::streamoff>(at));
    file.put(static_cast<char>(static_cast<unsigned char>(old) ^ bits));
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

}  // namespace
}  // namespace longlora
