#pragma once

#include <string>

#include "comm/communicator.hpp"
#include "options/options.hpp"

namespace longlora {

// Where the work is done.
struct DeviceChoice {
    DeviceKind kind = DeviceKind::cpu;
    std::string name = "cpu";  // "cuda (NVIDIA H100 80GB HBM3)"
};

// Collective: what parallel.device means here. auto takes GPUs where each rank sees one, and says once
// that it found none in a build that could use them; cuda is an Error without one. Ranks of a host
// take its GPUs in turn.
DeviceChoice choose_device(const Options& options, const Communicator<Cpu>& world);

}  // namespace longlora
