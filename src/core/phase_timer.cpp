#include "core/phase_timer.hpp"

#include "core/fault_point.hpp"
#include "core/progress_point.hpp"

namespace longlora {

const char* phase_name(Phase phase) {
    static constexpr std::array<const char*, static_cast<std::size_t>(Phase::count)> names = {
        "other",         "forward",       "backward",  "halo_wait",
        "weight_gather", "gradient_sync", "optimizer", "checkpoint"};
    return names[static_cast<std::size_t>(phase)];
}

PhaseTimer::PhaseTimer() : since_(Clock::now()) {}

void PhaseTimer::reset() {
    seconds_.fill(0);
    since_ = Clock::now();
}

void PhaseTimer::enter(Phase phase) {
    const auto now = Clock::now();
    seconds_[static_cast<std::size_t>(current_)] +=
        std::chrono::duration<double>(now - since_).count();
    since_ = now;
    current_ = phase;
    progress_point().set_phase(phase_name(phase));
    fault_point(phase_name(phase));
}

}  // namespace longlora
