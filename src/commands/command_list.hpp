#pragma once

#include "options/options.hpp"

// One function a command; each returns the exit code and runs on all ranks.
namespace longlora {

int train_command(Options options, bool is_dry_run);
int evaluate_command(Options options);
int export_command(Options options, bool is_dry_run);
int prepare_command(const Options& options);
int report_command(const Options& options);

}  // namespace longlora
