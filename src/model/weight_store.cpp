#include "model/weight_store.hpp"

#include <algorithm>

#include "core/error.hpp"

namespace longlora {
namespace {

std::vector<Parameter> frozen_tensors(const LlamaConfig& config,
                                      const std::vector<Parameter>& trained) {
    std::vector<Parameter> table;
    Index offset = 0;
    for (const TensorShape& shape : llama_tensors(config)) {
        const bool is_trained =
            std::any_of(trained.begin(), trained.end(),
                        [&](const Parameter& p) { return p.shape.name == shape.name; });
        if (!is_trained) {
            table.push_back({shape, offset, false});
            offset += (shape.size() + 15) / 16 * 16;
        }
    }
    return table;
}

}  // namespace

template <class Device>
WeightStore<Device>::WeightStore(const BaseWeights& base, Parameters<Device>& parameters)
    : frozen_(frozen_tensors(base.config(), parameters.table())),
      memory_(flat_size(frozen_)),
      ends_{{nullptr, 0, 0}, {nullptr, 0}, {nullptr, 0, 0}} {
    for (const Parameter& tensor : frozen_) {
        base.read(tensor.shape, {memory_.view().data() + tensor.offset,
                                 static_cast<std::size_t>(tensor.shape.size())});
    }
    const auto matrix = [&](const std::string& name) { return find(name + ".weight", parameters); };
    const auto vector = [&](const std::string& name) { return matrix(name).flat(); };
    for (Index l = 0; l < base.config().layers; ++l) {
        const std::string layer = "model.layers." + std::to_string(l);
        layers_.push_back({vector(layer + ".input_layernorm"),
                           vector(layer + ".post_attention_layernorm"),
                           matrix(layer + ".self_attn.q_proj"), matrix(layer + ".self_attn.k_proj"),
                           matrix(layer + ".self_attn.v_proj"), matrix(layer + ".self_attn.o_proj"),
                           matrix(layer + ".mlp.gate_proj"), matrix(layer + ".mlp.up_proj"),
                           matrix(layer + ".mlp.down_proj")});
    }
    const auto embedding = matrix("model.embed_tokens");
    ends_ = {embedding, vector("model.norm"),
             base.config().is_tied ? embedding : matrix("lm_head")};
}

template <class Device>
View<Device, const float, 2> WeightStore<Device>::find(const std::string& name,
                                                       Parameters<Device>& parameters) const {
    if (parameters.has(name)) {
        return parameters.weight(name);
    }
    const auto place = std::find_if(frozen_.begin(), frozen_.end(),
                                    [&](const Parameter& p) { return p.shape.name == name; });
    ensure(place != frozen_.end(), "the base model has no tensor named " + name);
    const TensorShape& shape = place->shape;
    const Index rows = shape.columns == 0 ? 1 : shape.rows;
    return {memory_.view().data() + place->offset, rows, shape.size() / rows};
}

template <class Device>
std::size_t WeightStore<Device>::frozen_bytes(const LlamaConfig& config, const Tune& tune) {
    const auto frozen = frozen_tensors(config, trainable_parameters(config, tune));
    return sizeof(Element<Device>) * static_cast<std::size_t>(flat_size(frozen));
}

LONGLORA_INSTANTIATE(WeightStore);

}  // namespace longlora
