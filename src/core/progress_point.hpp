#pragma once

#include <string>

#include "core/view.hpp"

namespace longlora {

// Where this rank is in its work, for the message of a watchdog or of an error: set by the
// schedule, read by whoever has to say where a collective hangs.
struct ProgressPoint {
    const char* phase = "start";
    Index step = 0;
    Index chunk = -1;  // -1: outside a sequence
    Index layer = -1;  // -1: outside a layer

    std::string text() const;
};

ProgressPoint& progress_point();

}  // namespace longlora
