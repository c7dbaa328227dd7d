#pragma once

#include <array>
#include <chrono>
#include <cstddef>

namespace longlora {

// Where the seconds of a step go; the names are those of log.h5 (seconds_<phase>_mean).
enum class Phase : std::size_t {
    other,
    forward,
    backward,
    halo_wait,
    weight_gather,
    gradient_sync,
    optimizer,
    checkpoint,
    count
};

const char* phase_name(Phase phase);

// Attributes every moment to exactly one phase: an inner phase (waiting for a halo) stops the clock
// of the outer one (forward). Also tells the watchdog where this rank is.
class PhaseTimer {
public:
    PhaseTimer();
    double seconds(Phase phase) const { return seconds_[static_cast<std::size_t>(phase)]; }
    Phase current() const { return current_; }
    void reset();

private:
    friend class PhaseScope;
    void enter(Phase phase);

    using Clock = std::chrono::steady_clock;
    std::array<double, static_cast<std::size_t>(Phase::count)> seconds_{};
    Phase current_ = Phase::other;
    Clock::time_point since_;
};

class PhaseScope {
public:
    PhaseScope(PhaseTimer& timer, Phase phase) : timer_(timer), outer_(timer.current()) {
        timer_.enter(phase);
    }
    ~PhaseScope() { timer_.enter(outer_); }
    PhaseScope(const PhaseScope&) = delete;
    PhaseScope& operator=(const PhaseScope&) = delete;

private:
    PhaseTimer& timer_;
    Phase outer_;
};

}  // namespace longlora
