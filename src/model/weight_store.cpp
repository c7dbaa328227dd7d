#include "model/weight_store.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "core/host_copy.hpp"
#include "io/adapter.hpp"
#include "kernels/elementwise.hpp"
#include "kernels/random_normal.hpp"
#include "model/elements.hpp"
#include "model/fold.hpp"

namespace longlora {
namespace {

bool stays_float(const TensorShape& shape) {
    return shape.columns == 0 || shape.name == embedding_name;
}

bool is_in(const std::vector<Parameter>& trained, const TensorShape& shape) {
    return std::any_of(trained.begin(), trained.end(),
                       [&](const Parameter& p) { return p.shape.name == shape.name; });
}

Index rows_of(const TensorShape& shape) { return shape.columns == 0 ? 1 : shape.rows; }

// Elements of all tensors of a kind.
Index kind_size(const std::vector<PlacedTensor>& stored, bool is_float) {
    Index size = 0;
    for (const PlacedTensor& tensor : stored) {
        size = tensor.is_float == is_float
                   ? std::max(size, tensor.offset + round_up(tensor.size(), 16))
                   : size;
    }
    return size;
}

// The factors that belong to a frozen matrix; nothing where it is no target.
std::optional<LoraPair> factors_of(const TensorShape& shape, const Tune& tune) {
    return lora_pair(shape, {tune.rank, tune.alpha, tune.dropout, tune.targets});
}

Index largest_folded(const std::vector<PlacedTensor>& stored) {
    Index size = 0;
    for (const PlacedTensor& tensor : stored) {
        size = tensor.fold > 0 ? std::max(size, tensor.shape.size()) : size;
    }
    return size;
}

template <class Device>
std::vector<PlacedTensor> stored_tensors(const LlamaConfig& config, const Tune& tune,
                                         const std::vector<Parameter>& trained) {
    std::vector<PlacedTensor> stored;
    const auto add = [&](const TensorShape& shape, bool is_float, bool is_copy, Index fold = 0) {
        stored.push_back({shape, kind_size(stored, is_float), is_float, is_copy, fold});
    };
    for (const TensorShape& shape : llama_tensors(config)) {
        if (!is_in(trained, shape)) {
            add(shape, stays_float(shape), false,
                factors_of(shape, tune) ? fold_columns<Device>(tune) : 0);
        } else if (!stores_floats<Device> && !stays_float(shape)) {
            add(shape, false, true);
        }
        if (!stores_floats<Device> && config.is_tied && shape.name == embedding_name) {
            add({head_name, shape.rows, shape.columns}, false, true);
        }
    }
    return stored;
}

template <class Device, class T>
void read_tensor(const Stream<Device>& stream, const BaseWeights& base, const TensorShape& shape,
                 View<Device, T, 1> to) {
    if (const auto matrix = base.random_matrix(shape)) {  // where it is to lie: no host's memory
        random_normal(stream, RandomNormal<Device, T>{matrix->key, matrix->deviation, to});
        return;
    }
    HostCopy<Device, T> copy(to);
    if constexpr (std::is_same_v<T, float>) {
        base.read(shape, copy.values());
    } else {
        std::vector<float> values(static_cast<std::size_t>(shape.size()));
        base.read(shape, values);
        std::transform(values.begin(), values.end(), copy.values().begin(), to_element<T>);
    }
    copy.write_back(stream);
}

}  // namespace

template <class Device>
WeightStore<Device>::WeightStore(const Stream<Device>& stream, const BaseWeights& base,
                                 const Tune& tune, Parameters<Device>& parameters)
    : parameters_(parameters),
      tune_(tune),
      is_tied_(base.config().is_tied),
      stored_(stored_tensors<Device>(base.config(), tune, parameters.table())),
      floats_(kind_size(stored_, true)),
      matrices_(kind_size(stored_, false)),
      ends_{{nullptr, 0, 0}, {nullptr, 0}, {nullptr, 0, 0}} {
    read(stream, base);
    const auto vector = [&](const std::string& name) { return floats(name + ".weight").flat(); };
    const auto matrix = [&](const std::string& name) { return this->matrix(name + ".weight"); };
    for (Index l = 0; l < base.config().layers; ++l) {
        const std::string layer = "model.layers." + std::to_string(l);
        layers_.push_back({vector(layer + ".input_layernorm"),
                           vector(layer + ".post_attention_layernorm"),
                           matrix(layer + ".self_attn.q_proj"), matrix(layer + ".self_attn.k_proj"),
                           matrix(layer + ".self_attn.v_proj"), matrix(layer + ".self_attn.o_proj"),
                           matrix(layer + ".mlp.gate_proj"), matrix(layer + ".mlp.up_proj"),
                           matrix(layer + ".mlp.down_proj")});
    }
    ends_ = {floats(embedding_name), vector("model.norm"), matrix("lm_head")};
    refresh(stream);
}

template <class Device>
void WeightStore<Device>::read(const Stream<Device>& stream, const BaseWeights& base) {
    Buffer<Device, Element<Device>> unfolded(largest_folded(stored_));
    for (const PlacedTensor& tensor : stored_) {
        const TensorShape& shape = tensor.shape;
        const Range place{tensor.offset, tensor.offset + shape.size()};
        if (tensor.is_copy) {
            continue;
        }
        if (tensor.is_float) {
            read_tensor<Device>(stream, base, shape, floats_.view().slice(place));
        } else if (tensor.fold == 0) {
            read_tensor<Device>(stream, base, shape, matrices_.view().slice(place));
        } else {
            const auto read = unfolded.view().slice({0, shape.size()});
            read_tensor<Device>(stream, base, shape, read);
            copy(stream, Copy<Device, Element<Device>>{{read.data(), shape.rows, shape.columns},
                                                       place_of(tensor)});
        }
    }
    stream.synchronize();  // before what was copied from goes
}

template <class Device>
View<Device, Element<Device>, 2> WeightStore<Device>::place_of(const PlacedTensor& tensor) {
    const TensorShape& shape = tensor.shape;
    return {matrices_.view().data() + tensor.offset, shape.rows, shape.columns,
            shape.columns + tensor.fold};
}

template <class Device>
const PlacedTensor* WeightStore<Device>::find(const std::string& name, bool is_float) const {
    const auto place = std::find_if(stored_.begin(), stored_.end(), [&](const PlacedTensor& t) {
        return t.shape.name == name && t.is_float == is_float;
    });
    return place == stored_.end() ? nullptr : &*place;
}

template <class Device>
View<Device, const float, 2> WeightStore<Device>::floats(const std::string& name) const {
    if (parameters_.has(name)) {
        return parameters_.weight(name);
    }
    const PlacedTensor* tensor = find(name, true);
    ensure(tensor != nullptr, "the base model has no tensor named " + name);
    const Index rows = rows_of(tensor->shape);
    return {floats_.view().data() + tensor->offset, rows, tensor->shape.size() / rows};
}

template <class Device>
View<Device, const Element<Device>, 2> WeightStore<Device>::matrix(const std::string& name) const {
    if constexpr (stores_floats<Device>) {
        if (name == head_name && is_tied_) {
            return floats(embedding_name);
        }
        if (parameters_.has(name)) {
            return parameters_.weight(name);
        }
    }
    const PlacedTensor* tensor = find(name, false);
    ensure(tensor != nullptr, "the base model has no tensor named " + name);
    return {matrices_.view().data() + tensor->offset, tensor->shape.rows, tensor->shape.columns,
            tensor->shape.columns + tensor->fold};
}

// [W | s B ; A | 0], with zeros beyond the rank
template <class Device>
void WeightStore<Device>::refresh_factors(const Stream<Device>& stream,
                                          const PlacedTensor& tensor) {
    const auto pair = factors_of(tensor.shape, tune_);
    const Range rank{0, tune_.rank};
    const auto weight = place_of(tensor);
    convert(stream,
            {.x = parameters_.weight(pair->a.name), .out = below(weight, tensor.fold).rows(rank)});
    convert(stream, {.x = parameters_.weight(pair->b.name),
                     .out = behind(weight, tensor.fold).columns(rank),
                     .scale = static_cast<float>(tune_.scale())});
}

template <class Device>
void WeightStore<Device>::refresh(const Stream<Device>& stream) {
    for (const PlacedTensor& tensor : stored_) {
        if (tensor.is_copy) {
            const bool is_tied_head = is_tied_ && tensor.shape.name == head_name;
            convert(stream, {.x = floats(is_tied_head ? embedding_name : tensor.shape.name),
                             .out = place_of(tensor)});
        }
        if (tensor.fold > 0) {
            refresh_factors(stream, tensor);
        }
    }
}

template <class Device>
std::size_t WeightStore<Device>::bytes(const LlamaConfig& config, const Tune& tune) {
    const auto stored = stored_tensors<Device>(config, tune, trainable_parameters(config, tune));
    return sizeof(float) * static_cast<std::size_t>(kind_size(stored, true)) +
           sizeof(Element<Device>) * static_cast<std::size_t>(kind_size(stored, false));
}

LONGLORA_INSTANTIATE(WeightStore);

}  // namespace longlora
