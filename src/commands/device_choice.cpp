#include "commands/device_choice.hpp"

#include <algorithm>

#include "comm/agree.hpp"
#include "comm/environment.hpp"
#include "comm/transport.hpp"
#include "core/cuda_device.hpp"
#include "core/error.hpp"
#include "core/terminal.hpp"
#include "kernels/matmul.hpp"

namespace longlora {
namespace {

// This rank's place among those of its host.
int local_rank(const Communicator<Cpu>& world) {
    const auto hosts = world.gather_texts(host_name());
    return static_cast<int>(std::count(hosts.begin(), hosts.begin() + world.rank(), host_name()));
}

Transport transport(choice::Transport wanted) {
    return wanted == choice::Transport::mpi    ? Transport::mpi
           : wanted == choice::Transport::nccl ? Transport::nccl
                                               : Transport::automatic;
}

// "cuda (NVIDIA H100 80GB HBM3)"; of several ranks also what carries their messages, and that is said.
std::string describe(const std::string& gpu, const Options& options,
                     const Communicator<Cpu>& world) {
    if (world.size() == 1) {
        return "cuda (" + gpu + ")";
    }
    const std::string messages = choose_transport(world, transport(options.comm.transport));
    if (world.rank() == 0) {
        say(gpu + ", messages between ranks by " + messages);
    }
    return "cuda (" + gpu + ", " + messages + ")";
}

}  // namespace

DeviceChoice choose_device(const Options& options, const Communicator<Cpu>& world) {
    if (!has_cuda || options.parallel.device == choice::Device::cpu) {
        return {};
    }
    const int count = cuda_device_count();
    const bool all_see_one = world.min(std::int64_t{count}) > 0;
    agree([&] {
        require(all_see_one || options.parallel.device != choice::Device::cuda,
                "parallel.device cuda: no GPU is seen (" + why_no_cuda_device() +
                    "); ask the queue for one, or set parallel.device cpu");
    });
    if (!all_see_one) {
        if (world.rank() == 0) {
            say("no GPU found (" + why_no_cuda_device() + "): running on the CPU");
        }
        return {};
    }
    const auto kind = options.parallel.storage == choice::Storage::float32 ? DeviceKind::cuda_float
                                                                           : DeviceKind::cuda;
    const std::string name = use_cuda_device(local_rank(world) % count);
    agree([] { prepare_cuda_matmul(); });
    return {kind, describe(name, options, world)};
}

}  // namespace longlora
