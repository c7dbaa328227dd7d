#include "io/checkpoint_reader.hpp"

#include <fstream>

#include <boost/test/unit_test.hpp>

#include "support/files.hpp"

namespace longlora {
namespace {

using test::contains;
using test::TemporaryFolder;

const std::vector<CheckpointTensor> tensors = {{"matrix", 3, 5, 0}, {"vector", 7, 0, 15}};

std::vector<float> values(float first) {
    std::vector<float> all(22);
    for (float& value : all) {
        value = first++;
    }
    return all;
}

void write(const TemporaryFolder& folder, Index step) {
    const auto all = values(static_cast<float>(100 * step));
    write_checkpoint(checkpoint_path(folder.path().string(), step), {{"step", step}}, tensors,
                     {{0, 22}, all, all, all});
}

void damage(const TemporaryFolder& folder, Index step) {
    const std::string path = checkpoint_path(folder.path().string(), step);
    const auto all = values(static_cast<float>(100 * step));
    const std::string bytes(reinterpret_cast<const char*>(all.data()), 60);
    const auto place = test::read_file(path).find(bytes);
    BOOST_REQUIRE(place != std::string::npos);
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(place));
    file.put('\x7f');
}

std::string newest(const TemporaryFolder& folder, std::vector<std::string>& told) {
    return newest_intact_checkpoint(folder.path().string(), tensors,
                                    [&](const std::string& text) { told.push_back(text); });
}

BOOST_AUTO_TEST_CASE(tensors_are_read_one_by_one) {
    const TemporaryFolder folder;
    write(folder, 3);
    const CheckpointReader reader(checkpoint_path(folder.path().string(), 3), tensors);
    reader.verify();
    std::vector<float> vector(7);
    reader.read("vector", vector);
    BOOST_TEST(vector.front() == 315);
    BOOST_TEST(vector.back() == 321);
    BOOST_TEST((reader.has("matrix") && !reader.has("other")));
    BOOST_CHECK_THROW(reader.read("matrix", vector), Error);
    const std::vector<CheckpointTensor> others = {{"matrix", 5, 3, 0}, {"vector", 7, 0, 15}};
    CHECK_INPUT_ERROR(CheckpointReader(reader.path(), others), "does not hold matrix [5, 3]");
}

BOOST_AUTO_TEST_CASE(the_newest_intact_one_is_found) {
    const TemporaryFolder folder;
    std::vector<std::string> told;
    CHECK_INPUT_ERROR(newest(folder, told), "no checkpoint in");
    write(folder, 3);
    write(folder, 12);
    BOOST_TEST(newest(folder, told) == checkpoint_path(folder.path().string(), 12));
    BOOST_TEST(told.empty());
    damage(folder, 12);
    BOOST_TEST(newest(folder, told) == checkpoint_path(folder.path().string(), 3));
    BOOST_TEST(told.size() == 1U);
    BOOST_TEST(contains(told.at(0), "trying the checkpoint before it"), told.at(0));
}

}  // namespace
}  // namespace longlora
