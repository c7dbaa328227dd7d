#pragma once

#include <vector>

#include "comm/communicator.hpp"
#include "core/phase_timer.hpp"
#include "io/run_log.hpp"

namespace longlora {

// What one step amounted to, the same on all ranks.
struct StepRecord {
    Index step = 0;  // 1-based
    double loss = 0;
    double learning_rate = 0;
    double gradient_norm = 0;
    double tokens = 0;
    double seconds = 0;
    double flops = 0;       // of the step
    double halo_bytes = 0;  // K/V and dK/dV sent by all ranks
};

// The datasets of /steps, in the order of step_values.
std::vector<LogQuantity> step_quantities();

// Collective: seconds by phase as minimum, mean and maximum over ranks, memory as the maximum.
std::vector<double> step_values(const StepRecord& record, const PhaseTimer& timer,
                                const Communicator<Cpu>& world);

double now_seconds();          // of a clock that never goes back
double peak_resident_bytes();  // of this process so far

}  // namespace longlora
