#pragma once

#include "comm/communicator.hpp"

namespace longlora {

// Threads that a rank may use: the cores that the ranks of its node may run on together, shared
// among them; at least one. Works bound (a rank has cores of its own) and unbound.
int threads_per_rank(const Communicator<Cpu>& world);

// "host: ranks 0-3, cores 0-31", one line a host; where the run sits.
std::string placement(const Communicator<Cpu>& world);

}  // namespace longlora
