#include "io/gradient_file.hpp"

#include <numeric>

#include <boost/test/unit_test.hpp>

#include "support/files.hpp"

namespace longlora {
namespace {

BOOST_AUTO_TEST_CASE(gradients_stand_under_their_names) {
    const test::TemporaryFolder folder;
    const std::string path = folder / "new" / "gradients.h5";
    const std::vector<CheckpointTensor> tensors{{"layers.0.lora_A.weight", 2, 3, 0},
                                                {"norm.weight", 4, 0, 6}};
    std::vector<float> gradient(10);
    std::iota(gradient.begin(), gradient.end(), 0.5F);
    write_gradients(path, tensors, gradient, 2.718281828459045);
    write_gradients(path, tensors, gradient, 3.14159265358979);  // replaces it
    const Hdf5File file = Hdf5File::open(path);
    const Hdf5Dataset matrix = file.dataset("/gradients/layers.0.lora_A.weight");
    BOOST_TEST((matrix.shape() == std::vector<Index>{2, 3}));
    BOOST_TEST((matrix.type() == Hdf5Type::float32));
    BOOST_TEST(
        (matrix.read_all<float>() == std::vector<float>(gradient.begin(), gradient.begin() + 6)));
    const Hdf5Dataset vector = file.dataset("/gradients/norm.weight");
    BOOST_TEST((vector.shape() == std::vector<Index>{4}));
    BOOST_TEST(
        (vector.read_all<float>() == std::vector<float>(gradient.begin() + 6, gradient.end())));
    const Hdf5Dataset loss = file.dataset("/loss");
    BOOST_TEST(loss.shape().empty());
    BOOST_TEST((loss.type() == Hdf5Type::float64));
    BOOST_TEST(loss.read_all<double>().at(0) == 3.14159265358979);
    BOOST_TEST(file.names("/gradients").size() == 2U);
    BOOST_TEST(!std::filesystem::exists(path + ".tmp"));
}

BOOST_AUTO_TEST_CASE(a_gradient_that_is_too_short_leaves_no_file) {
    const test::TemporaryFolder folder;
    const std::vector<CheckpointTensor> tensors{{"norm.weight", 4, 0, 6}};
    const std::vector<float> gradient(9);
    BOOST_CHECK_THROW(write_gradients(folder / "a.h5", tensors, gradient, 0), Error);
    BOOST_TEST(std::filesystem::is_empty(folder.path()));
}

}  // namespace
}  // namespace longlora
