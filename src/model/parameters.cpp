#include "model/parameters.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "core/transfer.hpp"
#include "io/adapter.hpp"

namespace longlora {
namespace {

constexpr Index cache_line = 16;  // floats

bool is_trained_base(const TensorShape& shape, const Tune& tune) {
    switch (tune.mode) {
        case TuneMode::full:
            return true;
        case TuneMode::lora:
            return false;
        case TuneMode::lora_plus:
            return shape.columns == 0 || shape.name == embedding_name;
    }
    return false;
}

Index largest_addend(const std::vector<Parameter>& table) {
    Index largest = 0;
    for (const Parameter& parameter : table) {
        largest = std::max(largest, parameter.is_looked_up ? 0 : parameter.shape.size());
    }
    return largest;
}

}  // namespace

std::vector<Parameter> trainable_parameters(const LlamaConfig& config, const Tune& tune) {
    std::vector<TensorShape> shapes;
    for (const TensorShape& shape : llama_tensors(config)) {
        if (is_trained_base(shape, tune)) {
            shapes.push_back(shape);
        }
    }
    if (tune.mode != TuneMode::full) {
        const AdapterConfig adapter{tune.rank, tune.alpha, tune.dropout, tune.targets};
        const auto lora = adapter_tensors(config, adapter);
        shapes.insert(shapes.end(), lora.begin(), lora.end());
    }
    std::vector<Parameter> table;
    Index offset = 0;
    for (const TensorShape& shape : shapes) {
        const bool is_looked_up = shape.name == embedding_name && !config.is_tied;
        table.push_back({shape, offset, shape.columns > 0, is_looked_up});
        offset += round_up(shape.size(), cache_line);
    }
    return table;
}

Index flat_size(const std::vector<Parameter>& table) {
    if (table.empty()) {
        return 0;
    }
    const Index end = table.back().offset + table.back().shape.size();
    return round_up(end, cache_line);
}

Index parameter_count(const std::vector<Parameter>& table) {
    Index count = 0;
    for (const Parameter& parameter : table) {
        count += parameter.shape.size();
    }
    return count;
}

template <class Device>
Parameters<Device>::Parameters(std::vector<Parameter> table)
    : table_(std::move(table)),
      weights_(flat_size(table_)),
      sums_(flat_size(table_)),
      addend_(largest_addend(table_)),
      refused_(1),
      step_tokens_(std::make_unique<double>(1)) {
    for (std::size_t i = 0; i < table_.size(); ++i) {
        place_[table_[i].shape.name] = i;
    }
}

template <class Device>
std::size_t Parameters<Device>::bytes(const std::vector<Parameter>& table) {
    return static_cast<std::size_t>(flat_size(table)) * (sizeof(float) + sizeof(std::int64_t)) +
           static_cast<std::size_t>(largest_addend(table)) * sizeof(float);
}

template <class Device>
View<Device, float, 2> Parameters<Device>::weight(const std::string& name) {
    return matrix(weights_.view(), name);
}

template <class Device>
GradientSum<Device> Parameters<Device>::gradient(const std::string& name) {
    const auto sum = matrix(sums_.view(), name);
    const bool has_addend = !table_[place_.at(name)].is_looked_up;
    return {
        {has_addend ? addend_.view().data() : nullptr, has_addend ? sum.rows() : 0, sum.columns()},
        sum,
        refused_.view(),
        step_tokens_.get()};
}

template <class Device>
template <class T>
View<Device, T, 2> Parameters<Device>::matrix(View<Device, T, 1> flat,
                                              const std::string& name) const {
    const auto place = place_.find(name);
    ensure(place != place_.end(), "no trainable tensor is named " + name);
    const Parameter& parameter = table_[place->second];
    const TensorShape& shape = parameter.shape;
    // A vector is one row, so that it reads as a View of rank 1 by row(0).
    const Index rows = shape.columns == 0 ? 1 : shape.rows;
    return {flat.data() + parameter.offset, rows, shape.size() / rows};
}

template <class Device>
void Parameters<Device>::clear_gradients(const Stream<Device>& stream, double tokens) {
    clear(stream, sums_.view());
    clear(stream, refused_.view());
    *step_tokens_ = tokens;
}

LONGLORA_INSTANTIATE(Parameters);

}  // namespace longlora
