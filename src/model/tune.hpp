#pragma once

#include <string>
#include <vector>

#include "core/view.hpp"

namespace longlora {

// lora_plus: LoRA, embeddings and norms (the paper's "+"); lora: LoRA alone; full: every weight.
enum class TuneMode { lora_plus, lora, full };

struct Tune {
    TuneMode mode = TuneMode::lora_plus;
    Index rank = 8;                    // R
    double alpha = 16;                 // s = alpha / R
    double dropout = 0;                // p
    std::vector<std::string> targets;  // q_proj ... down_proj

    double scale() const { return alpha / static_cast<double>(rank); }
    bool trains_ends() const { return mode != TuneMode::lora; }  // embeddings, norms, tied head
    bool operator==(const Tune&) const = default;
};

}  // namespace longlora
