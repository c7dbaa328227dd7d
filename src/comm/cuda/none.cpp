// In the place of the other files here where there is no CUDA Toolkit.
#include "comm/transport.hpp"

namespace longlora {

std::string choose_transport(const Communicator<Cpu>&, Transport) { return "MPI"; }
bool uses_nccl() { return false; }

}  // namespace longlora
