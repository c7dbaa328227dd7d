#pragma once

#include <memory>

#include "comm/communicator.hpp"
#include "comm/halo_transport.hpp"
#include "core/host_copy.hpp"

namespace longlora {

// Ranks with a GPU each, or sharing one. Arrays of the host go as on the CPU; those of the GPU, in the
// order of its stream: collectives through the host, messages as choose_transport() has settled.
template <class Storage>
class Communicator<CudaDevice<Storage>> : public Communicator<Cpu> {
public:
    using Device = CudaDevice<Storage>;
    using Communicator<Cpu>::all_gather;
    using Communicator<Cpu>::reduce_scatter_sum;

    // Not collective; its messages go through the host.
    static Communicator world() {
        return Communicator(Communicator<Cpu>::world(), make_staged_transport());
    }
    Communicator split(int color, int key) const {
        Communicator<Cpu> part = Communicator<Cpu>::split(color, key);
        auto messages = make_halo_transport(part);
        return Communicator(std::move(part), std::move(messages));
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
        return messages_->send(*this, stream, bytes, to, tag);
    }
    template <class T>
    Request receive(const Stream<Device>& stream, View<Device, T, 1> values, int from,
                    int tag) const {
        const View<Cpu, char, 1> bytes(reinterpret_cast<char*>(values.data()),
                                       values.size() * Index{sizeof(T)});
        return messages_->receive(*this, stream, bytes, from, tag);
    }
    // All messages of a phase are posted: they begin, before the GPU is given long work.
    void start_messages() const { messages_->start(); }

private:
    Communicator(Communicator<Cpu> ranks, std::unique_ptr<HaloTransport> messages)
        : Communicator<Cpu>(std::move(ranks)), messages_(std::move(messages)) {}

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

    std::unique_ptr<HaloTransport> messages_;
};

}  // namespace longlora
