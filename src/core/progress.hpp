#pragma once

#include <chrono>
#include <string>

#include "core/view.hpp"

namespace longlora {

struct StepReport {
    Index step = 0;  // 1-based
    double loss = 0;
    double tokens = 0;   // of the step, all ranks
    double seconds = 0;  // of the step
};

// How far a run is, for people: on a terminal a bar redrawn in place, else plain lines: the first
// step, each multiple of `every`, the last one, and inside a step that takes long.
class Progress {
public:
    Progress(Index first_step, Index last_step, Index every);  // steps first_step .. last_step

    // Inside `step`, `fraction` of it done; `what` says where ("pass 2, chunk 3 of 8").
    void inside(Index step, double fraction, const std::string& what);
    void done(const StepReport& report);
    void end();  // takes the bar away; whoever prints next has an empty line

private:
    using Clock = std::chrono::steady_clock;

    void show(double steps_done, const std::string& what);
    double seconds_left(double steps_done) const;

    Index first_;
    Index last_;
    Index every_;
    StepReport recent_;        // of the last finished step
    double step_seconds_ = 0;  // smoothed
    double step_tokens_ = 0;   // smoothed
    bool has_report_ = false;
    Clock::time_point shown_;
};

// The two forms, without a clock or a terminal.
struct ProgressView {
    Index step = 0;
    Index last = 0;
    double fraction = 0;  // of the whole run
    double loss = 0;
    double tokens_per_second = 0;
    double seconds_left = 0;
    bool has_report = false;  // else nothing but step and fraction is known
    std::string what;         // where inside the step; may be empty
};
std::string plain_line(const ProgressView& view);
std::string bar_line(const ProgressView& view, int width);  // shorter than `width`

}  // namespace longlora
