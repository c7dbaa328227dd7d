#pragma once

#include <cmath>
#include <complex>
#include <map>
#include <string>
#include <vector>

#include "model/tiny_model.hpp"
#include "reference/matmul.hpp"
#include "reference/rms_norm.hpp"
#include "reference/rope.hpp"
#include "reference/swiglu.hpp"
#include "sequence/visible.hpp"

// The loss of a whole row by the formulas of mathematics.md and nothing else: one rank, one chunk,
// no blocks, masks instead of groups, any scalar type.
namespace longlora::test {

template <class S>
using Tensors = std::map<std::string, std::vector<S>>;

// Every tensor of the model under its name in the files, trained or not.
template <class S>
Tensors<S> tensors_of(TinyModel& model) {
    Tensors<S> tensors;
    for (const TensorShape& shape : llama_tensors(model.config)) {
        std::vector<float> values(static_cast<std::size_t>(shape.size()));
        model.base.read(shape, values);
        tensors[shape.name] = {values.begin(), values.end()};
    }
    for (const Parameter& parameter : model.parameters.table()) {
        const auto values = model.parameters.weight(parameter.shape.name).flat();
        tensors[parameter.shape.name] = {values.begin(), values.end()};
    }
    return tensors;
}

template <class S>
class ReferenceLlama {
public:
    ReferenceLlama(const LlamaConfig& config, const Tune& tune, const Layout& layout,
                   Tensors<S> tensors)
        : config_(config), scale_(tune.scale()), layout_(layout), tensors_(std::move(tensors)) {}

    // Sum of the losses of all labels, -100 left out.
    S loss(const std::vector<std::int32_t>& tokens, const std::vector<std::int32_t>& labels) const {
        auto x = embedded(tokens);
        for (Index layer = 0; layer < config_.layers; ++layer) {
            const std::string name = "model.layers." + std::to_string(layer) + ".";
            x = sum(x, attention(name, norm(x, name + "input_layernorm")));
            x = sum(x, mlp(name, norm(x, name + "post_attention_layernorm")));
        }
        const std::string head = config_.is_tied ? "model.embed_tokens" : "lm_head";
        return cross_entropy(linear(norm(x, "model.norm"), head, config_.vocabulary), labels);
    }

private:
    using Values = std::vector<S>;

    const Values& tensor(const std::string& name) const { return tensors_.at(name + ".weight"); }

    static Values sum(Values x, const Values& y) {
        for (std::size_t i = 0; i < x.size(); ++i) {
            x[i] += y[i];
        }
        return x;
    }

    Values embedded(const std::vector<std::int32_t>& tokens) const {
        Values x;
        for (const std::int32_t token : tokens) {
            const auto row = tensor("model.embed_tokens").begin() + token * config_.width;
            x.insert(x.end(), row, row + config_.width);
        }
        return x;
    }

    Values norm(const Values& x, const std::string& name) const {
        return reference::rms_norm(x, tensor(name), S(config_.rms_epsilon));
    }

    // a b'
    static Values product(const Values& a, const Values& b, Index rows, Index columns) {
        const Index depth = static_cast<Index>(a.size()) / rows;
        return reference::matmul({rows, columns, depth, false, true}, a, b, S(1), S(0),
                                 Values(static_cast<std::size_t>(rows * columns)));
    }

    // y = x W' + s (x A') B'
    Values linear(const Values& x, const std::string& name, Index out) const {
        const Index rows = layout_.length;
        Values y = product(x, tensor(name), rows, out);
        const std::string lora = "base_model.model." + name + ".lora_";
        if (!tensors_.contains(lora + "A.weight")) {
            return y;
        }
        const Values& b = tensor(lora + "B");
        const Values xa = product(x, tensor(lora + "A"), rows, static_cast<Index>(b.size()) / out);
        const Values low = product(xa, b, rows, out);
        for (std::size_t i = 0; i < y.size(); ++i) {
            y[i] += scale_ * low[i];
        }
        return y;
    }

    // angle_i(p) = p / factor * theta^(-2i/D)
    Values turned(const Values& x, Index heads) const {
        const double factor = config_.rope.type == "linear" ? config_.rope.factor : 1.0;
        Values cosine;
        Values sine;
        for (Index p = 0; p < layout_.length; ++p) {
            for (Index i = 0; i < config_.head_dim / 2; ++i) {
                const double exponent =
                    -2.0 * static_cast<double>(i) / static_cast<double>(config_.head_dim);
                const double angle =
                    static_cast<double>(p) / factor * std::pow(config_.rope_theta, exponent);
                cosine.push_back(S(std::cos(angle)));
                sine.push_back(S(std::sin(angle)));
            }
        }
        return reference::rope(x, cosine, sine, static_cast<std::size_t>(heads * config_.head_dim),
                               static_cast<std::size_t>(config_.head_dim / 2));
    }

    S dot(const Values& a, std::size_t i, const Values& b, std::size_t j) const {
        S result = 0;
        for (std::size_t d = 0; d < static_cast<std::size_t>(config_.head_dim); ++d) {
            result += a[i + d] * b[j + d];
        }
        return result;
    }

    // Pr = softmax(q k' / sqrt(D)) over what is visible,   O = Pr V: one row of one head
    void attend(Index head, Index p, const Values& q, const Values& k, const Values& v,
                Values& out) const {
        const Heads heads{config_.heads, config_.kv_heads};
        const Index D = config_.head_dim;
        const auto row = static_cast<std::size_t>((p * heads.query + head) * D);
        S total = 0;
        for (Index j = 0; j < layout_.length; ++j) {
            if (!is_visible(layout_, is_shifted(layout_, heads, head), p, j)) {
                continue;
            }
            const Index kv_head = head / heads.queries_per_kv();
            const auto key = static_cast<std::size_t>((j * heads.kv + kv_head) * D);
            const S score = dot(q, row, k, key) / S(std::sqrt(static_cast<double>(D)));
            const S weight = std::exp(score);
            total += weight;
            for (std::size_t d = 0; d < static_cast<std::size_t>(D); ++d) {
                out[row + d] += weight * v[key + d];
            }
        }
        for (std::size_t d = 0; d < static_cast<std::size_t>(D); ++d) {
            out[row + d] /= total;
        }
    }

    Values attention(const std::string& name, const Values& h) const {
        const Index q_width = config_.heads * config_.head_dim;
        const Index kv_width = config_.kv_heads * config_.head_dim;
        const Values q = turned(linear(h, name + "self_attn.q_proj", q_width), config_.heads);
        const Values k = turned(linear(h, name + "self_attn.k_proj", kv_width), config_.kv_heads);
        const Values v = linear(h, name + "self_attn.v_proj", kv_width);
        Values out(q.size());
        for (Index head = 0; head < config_.heads; ++head) {
            for (Index p = 0; p < layout_.length; ++p) {
                attend(head, p, q, k, v, out);
            }
        }
        return linear(out, name + "self_attn.o_proj", config_.width);
    }

    Values mlp(const std::string& name, const Values& h) const {
        const Values gate = linear(h, name + "mlp.gate_proj", config_.mlp_width);
        const Values up = linear(h, name + "mlp.up_proj", config_.mlp_width);
        return linear(reference::swiglu(gate, up), name + "mlp.down_proj", config_.width);
    }

    // -log p(label)
    S cross_entropy(const Values& logits, const std::vector<std::int32_t>& labels) const {
        S loss = 0;
        for (std::size_t t = 0; t < labels.size(); ++t) {
            if (labels[t] == -100) {
                continue;
            }
            const std::size_t row = t * static_cast<std::size_t>(config_.vocabulary);
            S total = 0;
            for (std::size_t i = 0; i < static_cast<std::size_t>(config_.vocabulary); ++i) {
                total += std::exp(logits[row + i]);
            }
            loss += std::log(total) - logits[row + static_cast<std::size_t>(labels[t])];
        }
        return loss;
    }

    LlamaConfig config_;
    double scale_;
    Layout layout_;
    Tensors<S> tensors_;
};

}  // namespace longlora::test
