#pragma once

#include <memory>

#include "comm/communicator.hpp"
#include "core/host_copy.hpp"

namespace longlora {

// Passes messages between GPUs through pinned memory of the host, on a stream of its own, so that the
// GPU computes meanwhile; a message is given to MPI by whoever looks at its request. Pinned memory is
// taken when first needed and kept.
class HaloStage {
public:
    HaloStage();
    ~HaloStage();
    HaloStage(const HaloStage&) = delete;
    HaloStage& operator=(const HaloStage&) = delete;

    // Bytes of the GPU, or of pinned memory, that earlier work of `compute` has written.
    Request send(const Communicator<Cpu>& ranks, const CudaStream& compute,
                 View<Cpu, const char, 1> device_bytes, int to, int tag);
    // Once the request is done, later work of `compute` finds them there.
    Request receive(const Communicator<Cpu>& ranks, const CudaStream& compute,
                    View<Cpu, char, 1> device_bytes, int from, int tag);

private:
    struct State;
    std::unique_ptr<State> state_;
};

// Ranks with a GPU each, or sharing one. Arrays of the host go as on the CPU; those of the GPU, in the
// order of its stream, through the host.
template <class Storage>
class Communicator<CudaDevice<Storage>> : public Communicator<Cpu> {
public:
    using Device = CudaDevice<Storage>;
    using Communicator<Cpu>::all_gather;
    using Communicator<Cpu>::reduce_scatter_sum;

    static Communicator world() { return Communicator(Communicator<Cpu>::world()); }
    Communicator split(int color, int key) const {
        return Communicator(Communicator<Cpu>::split(color, key));
    }

    template <class T>
    void reduce_scatter_sum(const Stream<Device>& stream, View<Device, T, 1> values,
                            const std::vector<Range>& pieces) const {
        through_host(stream, values, [&](View<Cpu, T, 1> copy) {
            Communicator<Cpu>::reduce_scatter_sum(copy, pieces);
        });
    }
    template <class T>
    void all_gather(const Stream<Device>& stream, View<Device, T, 1> values,
                    const std::vector<Range>& pieces) const {
        through_host(stream, values,
                     [&](View<Cpu, T, 1> copy) { Communicator<Cpu>::all_gather(copy, pieces); });
    }
    template <class T>
    Request send(const Stream<Device>& stream, View<Device, const T, 1> values, int to,
                 int tag) const {
        const View<Cpu, const char, 1> bytes(reinterpret_cast<const char*>(values.data()),
                                             values.size() * Index{sizeof(T)});
        return stage_->send(*this, stream, bytes, to, tag);
    }
    template <class T>
    Request receive(const Stream<Device>& stream, View<Device, T, 1> values, int from,
                    int tag) const {
        const View<Cpu, char, 1> bytes(reinterpret_cast<char*>(values.data()),
                                       values.size() * Index{sizeof(T)});
        return stage_->receive(*this, stream, bytes, from, tag);
    }

private:
    explicit Communicator(Communicator<Cpu> ranks)
        : Communicator<Cpu>(std::move(ranks)), stage_(std::make_unique<HaloStage>()) {}

    // Once a step, so nothing is overlapped; alone there is nothing to do.
    template <class T, class Work>
    void through_host(const Stream<Device>& stream, View<Device, T, 1> values,
                      const Work& work) const {
        if (size() == 1) {
            return;
        }
        HostCopy<Device, T> copy(stream, values);
        work(View<Cpu, T, 1>(copy.values().data(), values.size()));
        copy.write_back(stream);
    }

    std::unique_ptr<HaloStage> stage_;
};

}  // namespace longlora
