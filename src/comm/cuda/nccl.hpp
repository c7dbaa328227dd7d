#pragma once

#include <memory>
#include <string>

#include "comm/device_collectives.hpp"
#include "comm/halo_transport.hpp"

// NCCL (src/comm/cuda/nccl/), or the lack of it.
namespace longlora {

// "2.28.9"; "" where the library is not found.
std::string nccl_version();

// Collective over `ranks`, each with a GPU of its own.
std::unique_ptr<HaloTransport> make_nccl_transport(const Communicator<Cpu>& ranks);
std::unique_ptr<DeviceCollectives> make_nccl_collectives(const Communicator<Cpu>& ranks);

// For tests: of a rank that sends to itself, and is alone. Need no MPI.
std::unique_ptr<HaloTransport> make_nccl_loop();
std::unique_ptr<DeviceCollectives> make_nccl_lone_collectives();

}  // namespace longlora
