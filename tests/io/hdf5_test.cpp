#include "io/hdf5.hpp"

#include <filesystem>
#include <fstream>
#include <numeric>

#include <boost/test/unit_test.hpp>

#include "comm/environment.hpp"
#include "support/files.hpp"
#include "support/shared_folder.hpp"

namespace longlora {
namespace {

using test::TemporaryFolder;

std::vector<float> counted(Index size) {
    std::vector<float> values(static_cast<std::size_t>(size));
    std::iota(values.begin(), values.end(), 0.0F);
    return values;
}

BOOST_AUTO_TEST_CASE(attributes_come_back_with_type_and_value) {
    const TemporaryFolder folder;
    const std::string path = folder / "a.h5";
    const Attributes written{{"negative", std::int64_t{-5}},
                             {"large", std::uint64_t{1} << 63U},
                             {"real", 0.1},
                             {"train.learning_rate", std::string("2e-5")},
                             {"empty", std::string()},
                             {"umlaut", std::string("Größe")},
                             {"long", std::string(100000, 'x')}};
    {
        Hdf5File file = Hdf5File::create(path);
        file.write_attribute("real", std::string("to be replaced"));
        file.write_attributes(written);
        file.close();
    }
    const Hdf5File file = Hdf5File::open(path);
    BOOST_TEST((file.attributes() == written));
    BOOST_TEST(std::get<std::int64_t>(file.attribute("negative")) == -5);
    CHECK_INPUT_ERROR(file.attribute("missing"), "has no attribute missing");
}

BOOST_AUTO_TEST_CASE(many_attributes_and_datasets_are_listed_sorted) {
    const TemporaryFolder folder;
    Hdf5File file = Hdf5File::create(folder / "a.h5");
    file.create_group("/steps");
    for (int i = 99; i >= 10; --i) {
        file.write_attribute("option." + std::to_string(i), std::int64_t{i});
        file.create_dataset("/steps/q." + std::to_string(i), {.shape = {2}});
    }
    BOOST_TEST(file.attributes().size() == 90U);
    const std::vector<std::string> names = file.names("/steps");
    BOOST_TEST(names.size() == 90U);
    BOOST_TEST(std::is_sorted(names.begin(), names.end()));
    BOOST_TEST(file.contains("/steps/q.10"));
    BOOST_TEST(!file.contains("/steps/q"));
    BOOST_TEST(!file.contains("/other/q.10"));
    CHECK_INPUT_ERROR(file.dataset("/other/q.10"), "has no dataset /other/q.10");
}

// Every flat range of a matrix, stored in chunks that do not divide it.
BOOST_AUTO_TEST_CASE(flat_ranges_of_a_matrix_are_read_and_written) {
    const TemporaryFolder folder;
    Hdf5File file = Hdf5File::create(folder / "a.h5");
    const std::vector<float> all = counted(35);
    Hdf5Dataset whole = file.create_dataset("/whole", {.shape = {5, 7}, .chunk = 10});
    whole.write(Range{0, 35}, std::span<const float>(all));
    BOOST_TEST((whole.shape() == std::vector<Index>{5, 7}));
    for (Index begin = 0; begin <= 35; ++begin) {
        for (Index end = begin; end <= 35; ++end) {
            std::vector<float> part(static_cast<std::size_t>(end - begin));
            whole.read(Range{begin, end}, std::span<float>(part));
            BOOST_TEST(std::equal(part.begin(), part.end(), all.begin() + begin));
        }
    }
    for (Index cut = 0; cut <= 35; ++cut) {
        Hdf5Dataset pieces =
            file.create_dataset("/cut" + std::to_string(cut), {.shape = {5, 7}, .chunk = 4});
        const std::span<const float> values(all);
        pieces.write(Range{cut, 35}, values.subspan(static_cast<std::size_t>(cut)));
        pieces.write(Range{0, cut}, values.first(static_cast<std::size_t>(cut)));
        BOOST_TEST((pieces.read_all<float>() == all));
    }
}

BOOST_AUTO_TEST_CASE(types_scalars_and_empty_datasets) {
    const TemporaryFolder folder;
    Hdf5File file = Hdf5File::create(folder / "a.h5");
    const auto check = [&]<class T>(const std::string& name, T value) {
        Hdf5Dataset scalar = file.create_dataset(name, {.type = hdf5_type<T>()});
        scalar.write(Range{0, 1}, std::span<const T>(&value, 1));
        BOOST_TEST((scalar.type() == hdf5_type<T>()));
        BOOST_TEST(scalar.shape().empty());
        BOOST_TEST(scalar.read_all<T>().at(0) == value);
    };
    check("/float", 1.5F);
    check("/double", 0.1);
    check("/int32", std::int32_t{-7});
    check("/int64", std::int64_t{-7} << 40U);
    check("/uint16", std::uint16_t{65535});
    check("/uint32", std::uint32_t{4294967295U});
    check("/uint64", ~std::uint64_t{0});
    for (const std::vector<Index>& shape : {std::vector<Index>{0}, {0, 3}, {3, 0}}) {
        const std::string name = "/empty" + std::to_string(shape.size()) + std::to_string(shape[0]);
        Hdf5Dataset empty = file.create_dataset(name, {.shape = shape, .chunk = 8});
        empty.write(Range{0, 0}, std::span<const float>());
        BOOST_TEST(empty.read_all<float>().empty());
        BOOST_TEST((empty.shape() == shape));
    }
}

BOOST_AUTO_TEST_CASE(columns_grow) {
    const TemporaryFolder folder;
    Hdf5File file = Hdf5File::create(folder / "a.h5");
    Hdf5Dataset numbers = file.create_dataset(
        "/numbers", {.type = Hdf5Type::int64, .shape = {0}, .chunk = 4, .is_extensible = true});
    Hdf5Dataset texts = file.create_dataset(
        "/texts",
        {.type = Hdf5Type::text, .shape = {0}, .chunk = 2, .is_extensible = true, .text_size = 5});
    std::vector<std::int64_t> expected;
    for (std::int64_t i = 0; i < 11; ++i) {
        const std::vector<std::int64_t> row{i, -i};
        numbers.append(std::span<const std::int64_t>(row));
        expected.insert(expected.end(), row.begin(), row.end());
    }
    const std::vector<std::string> words{"", "loss", "exact", "too long"};
    texts.append_text(words);
    texts.append_text({});
    BOOST_TEST((numbers.read_all<std::int64_t>() == expected));
    BOOST_TEST((texts.read_all_text() == std::vector<std::string>{"", "loss", "exact", "too l"}));
    numbers.resize(3);
    BOOST_TEST(numbers.size() == 3);
}

BOOST_AUTO_TEST_CASE(errors_name_the_file_and_the_cause) {
    const TemporaryFolder folder;
    CHECK_INPUT_ERROR(Hdf5File::open(folder / "none.h5"), "none.h5: No such file or directory");
    test::write_file(folder / "text.h5", "this is no HDF5 file");
    CHECK_INPUT_ERROR(Hdf5File::open(folder / "text.h5"), "file signature not found");
    BOOST_CHECK_EXCEPTION(Hdf5File::create(folder / "no" / "such.h5"), Error,
                          [](const Error& e) { return e.code() == ExitCode::failure; });
}

BOOST_AUTO_TEST_CASE(a_changed_byte_in_the_data_is_noticed) {
    const TemporaryFolder folder;
    const std::string path = folder / "a.h5";
    {
        Hdf5File file = Hdf5File::create(path);
        const std::vector<float> values = counted(5000);
        file.create_dataset("/x", {.shape = {5000}, .chunk = 512})
            .write(Range{0, 5000}, std::span<const float>(values));
        file.close();
    }
    const auto middle = static_cast<std::streamoff>(std::filesystem::file_size(path) / 2);
    std::fstream stream(path, std::ios::in | std::ios::out | std::ios::binary);
    stream.seekp(middle).put('\x55');
    stream.close();
    const Hdf5File file = Hdf5File::open(path);
    CHECK_INPUT_ERROR(file.dataset("/x").read_all<float>(), "cannot read /x in " + path);
}

// All ranks write one file; of four, rank 1 holds nothing.
BOOST_AUTO_TEST_CASE(ranks_write_together) {
    const test::SharedFolder folder;
    const std::string path = folder / "together.h5";
    const Index rank = world_rank();
    const Index ranks = world_size();
    const std::vector<float> all = counted(13 * 17);
    const auto border = [&](Index r) { return 221 * (r == 2 ? 1 : r) / ranks; };
    const Range mine{border(rank), rank + 1 == ranks ? 221 : border(rank + 1)};
    {
        Hdf5File file = Hdf5File::create(path, Access::all_ranks);
        file.create_group("/weights");
        Hdf5Dataset dataset =
            file.create_dataset("/weights/layers.0.q", {.shape = {13, 17}, .chunk = 40});
        dataset.write_attribute("digest", std::uint64_t{7});
        dataset.write(mine,
                      std::span<const float>(all).subspan(static_cast<std::size_t>(mine.begin),
                                                          static_cast<std::size_t>(mine.size())));
        Hdf5Dataset back = file.dataset("/weights/layers.0.q");
        BOOST_TEST((back.read_all<float>() == all));
        file.write_attribute("steps", std::int64_t{ranks});
    }  // closed by their destructors, in the same order on each rank
    const Hdf5File file = Hdf5File::open(path);
    BOOST_TEST((file.dataset("/weights/layers.0.q").read_all<float>() == all));
    BOOST_TEST(std::get<std::int64_t>(file.attribute("steps")) == ranks);
}

}  // namespace
}  // namespace longlora
