#pragma once

#include <map>
#include <string>
#include <vector>

#include "core/arena.hpp"
#include "io/llama_config.hpp"
#include "model/tune.hpp"

namespace longlora {

// One trainable tensor and its place in the flat arrays.
struct Parameter {
    TensorShape shape;  // name as in model.safetensors or adapter_model.safetensors
    Index offset;       // elements, a multiple of 16: every tensor starts on a cache line
    bool decays;        // weight decay applies to matrices only
};

// The trainables of a model in a fixed order (mathematics.md, section 3).
std::vector<Parameter> trainable_parameters(const LlamaConfig& config, const Tune& tune);
// Length of a flat array that holds them, padding included.
Index flat_size(const std::vector<Parameter>& table);
// Elements without padding.
Index parameter_count(const std::vector<Parameter>& table);

// The table of trainables: optimiser, checkpoint, gradient sync and count all iterate it. Weights
// and gradients are two flat float arrays, so a rank's share of them is a range.
template <class Device>
class Parameters {
public:
    explicit Parameters(std::vector<Parameter> table);

    const std::vector<Parameter>& table() const { return table_; }
    Index size() const { return weights_.size(); }
    View<Device, float, 1> weights() { return weights_.view(); }
    View<Device, float, 1> gradients() { return gradients_.view(); }

    bool has(const std::string& name) const { return place_.contains(name); }
    View<Device, float, 2> weight(const std::string& name) { return matrix(weights_.view(), name); }
    View<Device, float, 2> gradient(const std::string& name) {
        return matrix(gradients_.view(), name);
    }
    void clear_gradients();

private:
    View<Device, float, 2> matrix(View<Device, float, 1> flat, const std::string& name) const;

    std::vector<Parameter> table_;
    std::map<std::string, std::size_t> place_;
    Buffer<Device, float> weights_;
    Buffer<Device, float> gradients_;
};

}  // namespace longlora
