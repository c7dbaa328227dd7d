#pragma once

#include "comm/mesh.hpp"
#include "core/phase_timer.hpp"
#include "core/stream.hpp"
#include "model/parameters.hpp"
#include "options/options.hpp"

namespace longlora {

// AdamW with its moments sharded over all ranks: the gradient sum is scattered, each rank updates
// its own range, the weights are gathered (mathematics.md, section 6). 8 bytes x trainables / ranks
// of moments and 4 of gradient on each rank.
template <class Device>
class Optimizer {
public:
    Optimizer(const Parameters<Device>& parameters, const Communicator<Device>& world);

    // Sums the gradients of all ranks, this rank's range of it stays here. Returns the global norm;
    // not finite when any gradient is not.
    double reduce(Parameters<Device>& parameters, const Stream<Device>& stream, PhaseTimer& timer);
    // Clips to the norm that reduce() has returned, updates, gathers.
    struct Update {
        Index step;  // 1-based
        double norm;
    };
    void step(Parameters<Device>& parameters, const Stream<Device>& stream,
              const Options::Train& train, const Update& update, PhaseTimer& timer);

    const std::vector<Range>& pieces() const { return pieces_; }
    Range range() const { return pieces_[static_cast<std::size_t>(world_.rank())]; }
    View<Device, float, 1> first_moment() { return first_.view(); }
    View<Device, float, 1> second_moment() { return second_.view(); }

    static std::size_t bytes(Index trainables, int ranks);

private:
    double norm(const Stream<Device>& stream);

    const Communicator<Device>& world_;
    std::vector<Range> pieces_;
    Buffer<Device, float> gradient_;
    Buffer<Device, float> first_;
    Buffer<Device, float> second_;
    Buffer<Device, double> squares_;  // of the pieces of this rank's range
};

}  // namespace longlora
