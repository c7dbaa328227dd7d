#pragma once

#include <string_view>

#include "options/invocation.hpp"

namespace longlora {

// Runs invocation.command on all ranks; returns the exit code.
int run_command(const Invocation& invocation);

// config/default.ini as compiled in: the demonstration.
std::string_view embedded_default_ini();

}  // namespace longlora
