#pragma once

#include <map>
#include <string>
#include <vector>

#include "comm/communicator.hpp"
#include "io/model_shards.hpp"
#include "model/trained_weights.hpp"

namespace longlora {

struct ExportRequest {
    const TrainedWeights& weights;
    LlamaConfig config;       // of the exported model: its rope scaling, its context
    std::string base_folder;  // a Hugging Face directory; empty: none
    std::string base_config;  // its config.json as text; empty: none
    std::string directory;    // adapter/ and model/ go there
    std::string dtype;        // of model/, as torch calls it
    Index shard_bytes;
    std::map<std::string, std::string> facts;  // for export.json
};

// What export writes, known before it is written: adapter/ (where there is LoRA) and model/. No rank
// ever holds more than the largest tensor.
class ExportFiles {
public:
    explicit ExportFiles(ExportRequest request);

    bool has_adapter() const { return !adapter_.empty(); }
    std::string adapter_folder() const { return request_.directory + "/adapter"; }
    std::string model_folder() const { return request_.directory + "/model"; }
    Index adapter_bytes() const;
    Index model_bytes() const;
    std::size_t model_files() const { return shards_.size(); }
    Index largest_tensor() const;  // elements

    // Throws when something that is no earlier export is in the way.
    void check() const;
    // Collective: the ranks share the files. On an error every rank throws and what was there stays.
    void write(const Communicator<Cpu>& world, const Stream<Cpu>& stream) const;

private:
    void write_small_files() const;
    void write_large_file(std::size_t file, const Stream<Cpu>& stream) const;
    void write_adapter() const;
    void write_shard(const ModelShard& shard, const Stream<Cpu>& stream) const;
    std::map<std::string, std::string> adapter_texts() const;  // name -> content
    std::map<std::string, std::string> model_texts() const;

    ExportRequest request_;
    std::vector<AdapterTensor> adapter_;
    std::vector<TensorShape> tensors_;  // of the model
    std::vector<ModelShard> shards_;
    std::vector<std::string> copies_;  // files of the base that are taken over as they are
};

}  // namespace longlora
