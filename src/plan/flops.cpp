#include "plan/flops.hpp"

#include <algorithm>

namespace longlora {
namespace {

struct Linear {
    const char* name;
    Index in;
    Index out;
};

std::vector<Linear> linears(const LlamaConfig& c) {
    const Index q = c.heads * c.head_dim;
    const Index kv = c.kv_heads * c.head_dim;
    return {{"q_proj", c.width, q},
            {"k_proj", c.width, kv},
            {"v_proj", c.width, kv},
            {"o_proj", q, c.width},
            {"gate_proj", c.width, c.mlp_width},
            {"up_proj", c.width, c.mlp_width},
            {"down_proj", c.mlp_width, c.width}};
}

}  // namespace

double row_flops(const LlamaConfig& config, const Tune& tune, const Layout& layout) {
    const bool is_full = tune.mode == TuneMode::full;
    double a_layer = 0;
    for (const Linear& linear : linears(config)) {
        const double weight = static_cast<double>(linear.in) * static_cast<double>(linear.out);
        a_layer += (is_full ? 6 : 4) * weight;
        const bool has_lora = !is_full && std::find(tune.targets.begin(), tune.targets.end(),
                                                    linear.name) != tune.targets.end();
        if (has_lora) {
            a_layer +=
                6 * static_cast<double>(tune.rank) * static_cast<double>(linear.in + linear.out);
        }
    }
    const bool trains_head = is_full || (config.is_tied && tune.trains_ends());
    const double head = (trains_head ? 6.0 : 4.0) * static_cast<double>(config.width) *
                        static_cast<double>(config.vocabulary);
    const double pairs = visible_pairs(layout, {config.heads, config.kv_heads});
    const auto layers = static_cast<double>(config.layers);
    return static_cast<double>(layout.length) * (layers * a_layer + head) +
           layers * 14 * static_cast<double>(config.head_dim) * pairs;
}

}  // namespace longlora
