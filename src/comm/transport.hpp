#pragma once

#include <string>

#include "comm/communicator.hpp"

namespace longlora {

// Who carries messages and sums between the GPUs of ranks (comm.transport). automatic: NCCL where each
// rank has a GPU of its own and the library is found, else MPI, through pinned memory of the hosts.
enum class Transport { automatic, mpi, nccl };

// Collective over all ranks, each of which has taken its GPU: settles what communicators that are split
// off later use, and what the world uses for its first sum or gather of a GPU's array and from then on.
// In a few words, the same on all ranks: "NCCL 2.28.9". nccl is an Error (exit code 2) on all ranks
// where it cannot be.
std::string choose_transport(const Communicator<Cpu>& world, Transport wanted);
// Whether that was NCCL, which takes some of each GPU's memory for itself.
bool uses_nccl();

}  // namespace longlora
