#include "io/model_shards.hpp"

#include <algorithm>

#include "io/json.hpp"

namespace longlora {
namespace {

std::string five_digits(std::size_t number) {
    std::string digits = std::to_string(number);
    digits.insert(0, digits.size() < 5 ? 5 - digits.size() : 0, '0');
    return digits;
}

}  // namespace

Index ModelShard::bytes() const {
    Index total = 0;
    for (const TensorEntry& tensor : tensors) {
        total += tensor.bytes();
    }
    return total;
}

std::vector<ModelShard> plan_shards(std::span<const TensorEntry> tensors, Index most_bytes) {
    std::vector<ModelShard> shards(1);
    for (const TensorEntry& tensor : tensors) {
        const ModelShard& last = shards.back();
        if (!last.tensors.empty() && last.bytes() + tensor.bytes() > most_bytes) {
            shards.emplace_back();
        }
        shards.back().tensors.push_back(tensor);
    }
    for (std::size_t i = 0; i < shards.size(); ++i) {
        shards[i].file = shards.size() == 1 ? "model.safetensors"
                                            : "model-" + five_digits(i + 1) + "-of-" +
                                                  five_digits(shards.size()) + ".safetensors";
    }
    return shards;
}

std::string shard_index(std::span<const ModelShard> shards) {
    nlohmann::ordered_json index;
    Index total = 0;
    auto& files = index["weight_map"];
    for (const ModelShard& shard : shards) {
        total += shard.bytes();
        for (const TensorEntry& tensor : shard.tensors) {
            files[tensor.name] = shard.file;
        }
    }
    index["metadata"]["total_size"] = total;
    return index.dump(2) + "\n";
}

}  // namespace longlora
