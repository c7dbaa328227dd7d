#include "io/model_shards.hpp"

#include <boost/test/unit_test.hpp>

#include "support/files.hpp"

namespace longlora {
namespace {

const std::vector<TensorEntry> tensors = {
    {"a", {10, 2}, "F32"}, {"b", {10, 2}, "BF16"}, {"c", {5}, "F32"}, {"d", {100}, "F32"}};

std::vector<std::size_t> sizes(Index most_bytes) {
    std::vector<std::size_t> counts;
    for (const ModelShard& shard : plan_shards(tensors, most_bytes)) {
        counts.push_back(shard.tensors.size());
    }
    return counts;
}

BOOST_AUTO_TEST_CASE(files_are_filled_in_order_and_tensors_not_cut) {
    BOOST_TEST((sizes(540) == std::vector<std::size_t>{4}));
    BOOST_TEST((sizes(539) == std::vector<std::size_t>{3, 1}));
    BOOST_TEST((sizes(120) == std::vector<std::size_t>{2, 1, 1}));
    BOOST_TEST((sizes(1) == std::vector<std::size_t>{1, 1, 1, 1}));
    BOOST_TEST((plan_shards({}, 1).size() == 1U));
}

BOOST_AUTO_TEST_CASE(names_and_index_are_those_of_hugging_face) {
    BOOST_TEST(plan_shards(tensors, 1000)[0].file == "model.safetensors");
    const auto shards = plan_shards(tensors, 120);
    BOOST_TEST(shards[1].file == "model-00002-of-00003.safetensors");
    const std::string index = shard_index(shards);
    BOOST_TEST(test::contains(index, R"("b": "model-00001-of-00003.safetensors")"));
    BOOST_TEST(test::contains(index, R"("d": "model-00003-of-00003.safetensors")"));
    BOOST_TEST(test::contains(index, R"("total_size": 540)"));
}

}  // namespace
}  // namespace longlora
