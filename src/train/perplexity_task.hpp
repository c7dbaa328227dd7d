#pragma once

#include <string>

#include "evaluate/perplexity.hpp"
#include "options/options.hpp"

namespace longlora {

// What evaluate.* (and attention.*, for evaluate.attention s2) ask for.
PerplexityTask perplexity_task(const Options& options);

// What /evaluations calls it: "sliding", "longlora", with " s2" behind it under S2-Attn.
std::string protocol_name(const Options& options);

}  // namespace longlora
