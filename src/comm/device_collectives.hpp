#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "comm/communicator.hpp"
#include "core/cuda_stream.hpp"

namespace longlora {

// Sums and gathers of arrays that lie on GPUs. All ranks call the same ones in the same order. They come
// after what `compute` has been given, and its later work after them; the host waits, so that a rank
// that does not come is found out. pieces[r] is rank r's range; the ranges follow each other and cover
// the array, some may be empty.
class DeviceCollectives {
public:
    virtual ~DeviceCollectives() = default;

    // This rank's piece becomes that of the sum. What the rest holds afterwards is not defined.
    virtual void reduce_scatter_sum(const Communicator<Cpu>& ranks, const CudaStream& compute,
                                    View<Cpu, std::int64_t, 1> device_values,
                                    const std::vector<Range>& pieces) = 0;
    // Each rank has filled its own piece; afterwards all have all of it.
    virtual void all_gather(const Communicator<Cpu>& ranks, const CudaStream& compute,
                            View<Cpu, char, 1> device_bytes, const std::vector<Range>& pieces) = 0;
};

// Through MPI and two parts of pinned memory of the host, of `part_bytes` each (or 64 bytes a rank).
std::unique_ptr<DeviceCollectives> make_staged_collectives(const Communicator<Cpu>& ranks,
                                                           Index part_bytes = Index{16} << 20U);

// Collective over `ranks`: what choose_transport() (transport.hpp) has chosen.
std::unique_ptr<DeviceCollectives> make_device_collectives(const Communicator<Cpu>& ranks);

}  // namespace longlora
