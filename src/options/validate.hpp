#pragma once

#include <string>
#include <vector>

#include "options/options.hpp"

namespace longlora {

// Checks that need neither model nor data: ranges, and options that contradict each other or the
// number of ranks. Throws Error (bad input) with one sentence: what is wrong, where, what would be
// right. Returns warnings: options without effect and the like.
std::vector<std::string> validate(const Options& options, int ranks);
// The same for `prepare`, which trains nothing.
void validate_prepare(const Options& options);

}  // namespace longlora
