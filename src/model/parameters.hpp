#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/arena.hpp"
#include "io/llama_config.hpp"
#include "kernels/fixed_point.hpp"
#include "model/tune.hpp"

namespace longlora {

// One trainable tensor and its place in the flat arrays.
struct Parameter {
    TensorShape shape;  // name as in model.safetensors or adapter_model.safetensors
    Index offset;       // elements, a multiple of 16: every tensor starts on a cache line
    bool decays;        // weight decay applies to matrices only
    // Tokens look up rows of it, and nothing else reads it: their gradients are summed without an addend.
    bool is_looked_up = false;
};

// The trainables of a model in a fixed order (mathematics.md, section 3).
std::vector<Parameter> trainable_parameters(const LlamaConfig& config, const Tune& tune);
// Length of a flat array that holds them, padding included.
Index flat_size(const std::vector<Parameter>& table);
// Elements without padding.
Index parameter_count(const std::vector<Parameter>& table);

// Where the gradient of one trainable is summed. A piece of tokens writes its part to `addend`,
// memory that all trainables share, and commits it: the sum is one of integers, in any order. A table that
// is only looked up has none, and kernels add to `sum`.
template <class Device>
struct GradientSum {
    View<Device, float, 2> addend;
    View<Device, std::int64_t, 2> sum;
    View<Device, std::int64_t, 1> refused;
    const double* step_tokens;

    // `tokens`: how many the addend is a sum over.
    void commit(const Stream<Device>& stream, Index tokens) const {
        fixed_point_add(stream, {.x = addend.flat(),
                                 .sum = sum.flat(),
                                 .largest = largest_addend(tokens),
                                 .refused = refused});
    }
    // So that the addends of a whole step cannot overflow; half of it, for pieces that are shorter.
    float largest_addend(Index tokens) const {
        return static_cast<float>(fixed_point_range / 2 *
                                  std::min(1.0, static_cast<double>(tokens) / *step_tokens));
    }
};

// The table of trainables: optimiser, checkpoint, gradient sync and count all iterate it. Weights
// and gradients are two flat arrays, so a rank's share of them is a range.
template <class Device>
class Parameters {
public:
    explicit Parameters(std::vector<Parameter> table);

    const std::vector<Parameter>& table() const { return table_; }
    Index size() const { return weights_.size(); }
    View<Device, float, 1> weights() { return weights_.view(); }
    // Gradients times 2^48, and how many addends were too large or not numbers.
    View<Device, std::int64_t, 1> gradient_sums() { return sums_.view(); }
    View<Device, std::int64_t, 1> refused() { return refused_.view(); }

    bool has(const std::string& name) const { return place_.contains(name); }
    View<Device, float, 2> weight(const std::string& name);
    GradientSum<Device> gradient(const std::string& name);
    // Before a step over `tokens` tokens of all rows and ranks.
    void clear_gradients(const Stream<Device>& stream, double tokens);

    static std::size_t bytes(const std::vector<Parameter>& table);

private:
    template <class T>
    View<Device, T, 2> matrix(View<Device, T, 1> flat, const std::string& name) const;

    std::vector<Parameter> table_;
    std::map<std::string, std::size_t> place_;
    Buffer<Device, float> weights_;
    Buffer<Device, std::int64_t> sums_;
    Buffer<Device, float> addend_;  // as long as the largest tensor that has addends
    Buffer<Device, std::int64_t> refused_;
    std::unique_ptr<double> step_tokens_;  // stays where it is when this moves
};

}  // namespace longlora
