#pragma once

#include <memory>
#include <string>

#include "comm/halo_transport.hpp"

// NCCL (src/comm/cuda/nccl/), or the lack of it.
namespace longlora {

// "2.28.9"; "" where the library is not found.
std::string nccl_version();

// Collective over `ranks`, each with a GPU of its own.
std::unique_ptr<HaloTransport> make_nccl_transport(const Communicator<Cpu>& ranks);

// For tests: of a rank that sends to itself. Needs no MPI.
std::unique_ptr<HaloTransport> make_nccl_loop();

}  // namespace longlora
