#pragma once

#include <optional>

#include "commands/session.hpp"
#include "plan/run_plan.hpp"

namespace longlora {

// What options, model and an earlier start (the run that is resumed) leave to the planner, on a device that
// has been chosen. Collective.
PlanRequest plan_request(const Options& options, const ModelSetup& setup,
                         const std::optional<SavedRun>& saved, DeviceKind device);

}  // namespace longlora
