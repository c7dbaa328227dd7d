#pragma once

#include <string>

namespace longlora {

// What the system says of an errno, and what to do: "No space left on device; free some space there,
// or choose another place".
std::string system_reason(int error);

// The same for what a library has passed on from the system; other texts stay as they are.
std::string with_remedy(const std::string& reason);

}  // namespace longlora
