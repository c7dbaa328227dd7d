#pragma once

#include <array>
#include <string>

#include "core/view.hpp"

namespace longlora {

// Where this rank is in its work, for the message of a watchdog or of an error: set by the
// schedule, read by whoever has to say where a collective hangs.
struct ProgressPoint {
    std::array<char, 24> phase{"start"};  // no pointer: other processes read it
    Index step = 0;
    Index chunk = -1;         // -1: outside a sequence
    Index layer = -1;         // -1: outside a layer
    bool is_waiting = false;  // for another rank, and polling

    void set_phase(const char* name);
    std::string text() const;
};

ProgressPoint& progress_point();
// From now on it lies there, its content too; nullptr: where it lay at first.
void set_progress_point(ProgressPoint* place);

}  // namespace longlora
