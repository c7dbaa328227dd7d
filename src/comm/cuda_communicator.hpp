#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "comm/communicator.hpp"
#include "comm/device_collectives.hpp"
#include "comm/halo_transport.hpp"

namespace longlora {

// Ranks with a GPU each, or sharing one. Arrays of the host go as on the CPU; those of the GPU, in the
// order of its stream and in the way that choose_transport() has settled.
template <class Storage>
class Communicator<CudaDevice<Storage>> : public Communicator<Cpu> {
public:
    using Device = CudaDevice<Storage>;
    using Communicator<Cpu>::all_gather;
    using Communicator<Cpu>::reduce_scatter_sum;

    // Not collective; its messages go through the host, its sums and gathers as is settled by the first.
    static Communicator world() { return Communicator(Communicator<Cpu>::world(), nullptr); }
    Communicator split(int color, int key) const {
        Communicator<Cpu> part = Communicator<Cpu>::split(color, key);
        auto messages = make_halo_transport(part);
        return Communicator(std::move(part), std::move(messages));
    }

    // This rank's piece becomes that of the sum; what the rest holds afterwards is not defined.
    void reduce_scatter_sum(const Stream<Device>& stream, View<Device, std::int64_t, 1> values,
                            const std::vector<Range>& pieces) const {
        if (size() > 1) {
            const View<Cpu, std::int64_t, 1> device_values(values.data(), values.size());
            collectives().reduce_scatter_sum(*this, stream, device_values, pieces);
        }
    }
    template <class T>
    void all_gather(const Stream<Device>& stream, View<Device, T, 1> values,
                    const std::vector<Range>& pieces) const {
        if (size() > 1) {
            collectives().all_gather(*this, stream, bytes_of(values), bytes_of<T>(pieces));
        }
    }
    template <class T>
    Request send(const Stream<Device>& stream, View<Device, const T, 1> values, int to,
                 int tag) const {
        return messages().send(*this, stream, bytes_of(values), to, tag);
    }
    template <class T>
    Request receive(const Stream<Device>& stream, View<Device, T, 1> values, int from,
                    int tag) const {
        return messages().receive(*this, stream, bytes_of(values), from, tag);
    }
    // All messages of a phase are posted: they begin, before the GPU is given long work.
    void start_messages() const { messages().start(); }

private:
    Communicator(Communicator<Cpu> ranks, std::unique_ptr<HaloTransport> messages)
        : Communicator<Cpu>(std::move(ranks)), messages_(std::move(messages)) {}

    template <class T>
    static View<Cpu, const char, 1> bytes_of(View<Device, const T, 1> values) {
        return {reinterpret_cast<const char*>(values.data()), values.size() * Index{sizeof(T)}};
    }
    template <class T>
    static View<Cpu, char, 1> bytes_of(View<Device, T, 1> values) {
        return {reinterpret_cast<char*>(values.data()), values.size() * Index{sizeof(T)}};
    }
    template <class T>
    static std::vector<Range> bytes_of(const std::vector<Range>& elements) {
        std::vector<Range> bytes;
        for (const Range& range : elements) {
            bytes.push_back({range.begin * Index{sizeof(T)}, range.end * Index{sizeof(T)}});
        }
        return bytes;
    }

    // Made when they are first needed: few communicators have both, and world() is not collective.
    HaloTransport& messages() const {
        if (!messages_) {
            messages_ = make_staged_transport();
        }
        return *messages_;
    }
    DeviceCollectives& collectives() const {
        if (!collectives_) {
            collectives_ = make_device_collectives(*this);
        }
        return *collectives_;
    }

    mutable std::unique_ptr<HaloTransport> messages_;
    mutable std::unique_ptr<DeviceCollectives> collectives_;
};

}  // namespace longlora
