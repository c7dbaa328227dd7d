#pragma once

#include <string>

namespace longlora {

// While it lives, the ranks of this host see where each of them is in its work (core/progress_point.hpp):
// one that has waited too long says who keeps it waiting. Both ends are collective.
class SharedProgress {
public:
    SharedProgress();
    ~SharedProgress();
    SharedProgress(const SharedProgress&) = delete;
    SharedProgress& operator=(const SharedProgress&) = delete;
};

// Of this host's other ranks those that wait for nobody, and where they are; for the end of a message.
// Calls no MPI, so that any thread may ask.
std::string who_keeps_us_waiting();

}  // namespace longlora
