#pragma once

#include <string>

#include "core/view.hpp"
#include "options/options.hpp"

namespace longlora {

// Learning rate of step t (1-based): linear warm-up (step 1 has rate / warmup_steps), then constant,
// or linear or cosine to 0 at the last step (mathematics.md, section 6).
double learning_rate(const Options::Train& train, Index step);

}  // namespace longlora
