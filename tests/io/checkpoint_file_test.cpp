#include "io/checkpoint_file.hpp"

#include <bit>
#include <fstream>
#include <numeric>

#include "io/checkpoint_case.hpp"

namespace longlora {
namespace {

using namespace test;

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
