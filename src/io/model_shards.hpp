#pragma once

#include <span>
#include <string>
#include <vector>

#include "io/safetensors.hpp"

namespace longlora {

// One file of a Hugging Face model.
struct ModelShard {
    std::string file;  // model.safetensors, or model-00001-of-00003.safetensors
    std::vector<TensorEntry> tensors;

    Index bytes() const;
};

// The tensors in their order, cut before a file would grow beyond `most_bytes`; a tensor is never cut.
std::vector<ModelShard> plan_shards(std::span<const TensorEntry> tensors, Index most_bytes);

// model.safetensors.index.json: which tensor is in which file.
constexpr auto shard_index_name = "model.safetensors.index.json";
std::string shard_index(std::span<const ModelShard> shards);

}  // namespace longlora
