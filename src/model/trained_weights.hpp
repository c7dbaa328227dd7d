#pragma once

#include <string>
#include <vector>

#include "core/stream.hpp"
#include "io/checkpoint_reader.hpp"
#include "model/base_weights.hpp"
#include "model/tune.hpp"

namespace longlora {

// What an adapter file holds: a name there, and the tensor whose values stand under it.
struct AdapterTensor {
    std::string name;
    TensorShape source;
};

// A base and what training has made of it, one tensor at a time, so that a model larger than memory can
// be written down.
class TrainedWeights {
public:
    // Without a checkpoint (null) the adapter of the base, where it has one, is what was trained. Both
    // must outlive the object.
    TrainedWeights(const BaseWeights& base, Tune tune, const CheckpointReader* checkpoint);

    bool has_lora() const { return has_lora_; }
    AdapterConfig adapter_config() const {
        return {tune_.rank, tune_.alpha, tune_.dropout, tune_.targets};
    }
    // LoRA factors, then embeddings, norms and head as far as they are not the base's own; the head too
    // where it is tied to trained embeddings, since PEFT would untie it otherwise.
    std::vector<AdapterTensor> adapter_tensors() const;

    // A tensor of the model without LoRA, or a LoRA factor.
    void read(const TensorShape& tensor, std::span<float> out) const;
    // W + s B A: the tensor of a model that does without LoRA.       (Hu et al., LoRA, 2021)
    void read_merged(const Stream<Cpu>& stream, const TensorShape& tensor,
                     std::span<float> out) const;

private:
    bool is_changed(const TensorShape& tensor) const;

    const BaseWeights& base_;
    Tune tune_;
    const CheckpointReader* checkpoint_;
    bool has_lora_;
};

// The layers that the file of an adapter holds whole, as modules_to_save of PEFT names them:
// embed_tokens, input_layernorm, ...
std::vector<std::string> saved_modules(const std::vector<AdapterTensor>& tensors);

}  // namespace longlora
