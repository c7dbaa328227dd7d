#pragma once

#include "comm/communicator.hpp"
#include "comm/cuda_communicator.hpp"

namespace longlora {

// world = data x sequence, rank = data_index * sequence_size + sequence_index: the ranks that share
// a sequence are neighbours, because halos travel once a layer and gradients once a step.
template <class Device>
class Mesh {
public:
    // sequence_size divides the number of ranks.
    explicit Mesh(int sequence_size)
        : world_(Communicator<Device>::world()),
          sequence_(world_.split(world_.rank() / sequence_size, world_.rank())),
          sequence_size_(sequence_size) {}

    const Communicator<Device>& world() const { return world_; }
    const Communicator<Device>& sequence() const { return sequence_; }
    int data_size() const { return world_.size() / sequence_size_; }
    int data_index() const { return world_.rank() / sequence_size_; }
    int sequence_size() const { return sequence_size_; }
    int sequence_index() const { return world_.rank() % sequence_size_; }
    bool is_root() const { return world_.rank() == 0; }

private:
    Communicator<Device> world_;
    Communicator<Device> sequence_;
    int sequence_size_;
};

}  // namespace longlora
