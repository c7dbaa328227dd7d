#pragma once

#include <string>
#include <string_view>

#include "options/options.hpp"

namespace longlora {

// One start of the program: longlora_hpc [COMMAND] [--config FILE] [--section.key VALUE ...]
struct Invocation {
    std::string command = "train";  // train, evaluate, prepare, report
    Options options;
    bool wants_help = false;
    bool wants_version = false;
    bool is_dry_run = false;
    bool uses_default_config = false;  // config/default.ini, the demonstration
};

// Command line beats file, file beats built-in. `default_ini` is read when neither an option nor
// --config is given, or by `--config default`. Throws Error (bad input).
Invocation parse(int argc, const char* const* argv, std::string_view default_ini);

std::string help_text();

}  // namespace longlora
