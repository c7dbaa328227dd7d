#pragma once

#include <memory>

#include "comm/communicator.hpp"
#include "core/cuda_stream.hpp"

namespace longlora {

// Carries messages between GPUs, on a stream of its own, so that the GPU computes meanwhile. NCCL knows
// no tags: what one rank sends another is posted in the order in which the other posts its receives,
// from start() to start() on both.
class HaloTransport {
public:
    virtual ~HaloTransport() = default;

    // Bytes of the GPU, or of pinned memory, that earlier work of `compute` has written. They stay as
    // they are until the request is done.
    virtual Request send(const Communicator<Cpu>& ranks, const CudaStream& compute,
                         View<Cpu, const char, 1> device_bytes, int to, int tag) = 0;
    // Once the request is done, later work of `compute` finds them there.
    virtual Request receive(const Communicator<Cpu>& ranks, const CudaStream& compute,
                            View<Cpu, char, 1> device_bytes, int from, int tag) = 0;
    // Everything posted begins now; without this, when one of its requests is first looked at.
    virtual void start() {}
};

// Through MPI and pinned memory of the host.
std::unique_ptr<HaloTransport> make_staged_transport();

// Collective over `ranks`: what choose_transport() (transport.hpp) has chosen.
std::unique_ptr<HaloTransport> make_halo_transport(const Communicator<Cpu>& ranks);

}  // namespace longlora
