#include "comm/transport.hpp"

#include <algorithm>
#include <vector>

#include "comm/agree.hpp"
#include "comm/cuda/nccl.hpp"
#include "comm/device_collectives.hpp"
#include "comm/environment.hpp"
#include "comm/halo_transport.hpp"
#include "core/cuda_device.hpp"
#include "core/has_nccl.hpp"

namespace longlora {
namespace {

bool is_nccl = false;

bool have_equal(std::vector<std::string> texts) {
    std::sort(texts.begin(), texts.end());
    return std::adjacent_find(texts.begin(), texts.end()) != texts.end();
}

// Why the ranks cannot use NCCL, the same on all; "" if they can.
std::string obstacle(const Communicator<Cpu>& world) {
    if (!has_nccl) {
        return "this build has no NCCL";
    }
    const auto versions = world.gather_texts(nccl_version());
    if (std::count(versions.begin(), versions.end(), "") > 0) {
        return "the library NCCL is not found on each rank";
    }
    if (have_equal(world.gather_texts(host_name() + " " + cuda_bus()))) {
        return "ranks share a GPU";
    }
    return "";
}

}  // namespace

std::string choose_transport(const Communicator<Cpu>& world, Transport wanted) {
    is_nccl = false;
    if (wanted == Transport::mpi) {
        return "MPI";
    }
    const std::string reason = obstacle(world);
    agree(world, [&] {
        require(reason.empty() || wanted != Transport::nccl,
                "comm.transport nccl: " + reason +
                    "; give each rank a GPU of its own and load the " +
                    "cluster's NCCL, or set comm.transport mpi");
    });
    is_nccl = reason.empty();
    return is_nccl ? "NCCL " + nccl_version() : "MPI, as " + reason;
}

bool uses_nccl() { return is_nccl; }

std::unique_ptr<DeviceCollectives> make_device_collectives(const Communicator<Cpu>& ranks) {
    return is_nccl && ranks.size() > 1 ? make_nccl_collectives(ranks)
                                       : make_staged_collectives(ranks);
}

std::unique_ptr<HaloTransport> make_halo_transport(const Communicator<Cpu>& ranks) {
    return is_nccl && ranks.size() > 1 ? make_nccl_transport(ranks) : make_staged_transport();
}

}  // namespace longlora
