// In the place of the other files here where there is no NCCL.
#include "comm/cuda/nccl.hpp"
#include "core/error.hpp"

namespace longlora {

std::string nccl_version() { return ""; }

std::unique_ptr<HaloTransport> make_nccl_transport(const Communicator<Cpu>&) {
    throw Error("this build has no NCCL", ExitCode::failure);
}
std::unique_ptr<HaloTransport> make_nccl_loop() {
    throw Error("this build has no NCCL", ExitCode::failure);
}
std::unique_ptr<DeviceCollectives> make_nccl_collectives(const Communicator<Cpu>&) {
    throw Error("this build has no NCCL", ExitCode::failure);
}
std::unique_ptr<DeviceCollectives> make_nccl_lone_collectives() {
    throw Error("this build has no NCCL", ExitCode::failure);
}

}  // namespace longlora
