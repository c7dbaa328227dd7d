#pragma once

#include <string>

#include "commands/session.hpp"
#include "plan/run_plan.hpp"

namespace longlora {

struct DryRun {
    const Options& options;
    const ModelSetup& setup;
    const RunPlan& plan;
    DeviceKind device;
    std::string folder;
};

// --dry-run: everything has been validated; rank 0 prints shards, chunks, left-context traffic,
// memory and where the ranks sit. Collective.
void print_dry_run(const DryRun& run, const Communicator<Cpu>& world);

}  // namespace longlora
