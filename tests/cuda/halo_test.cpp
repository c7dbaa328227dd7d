// Messages between the GPUs of ranks, by what choose_transport() chooses and through the host.
#include <string>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "comm/cuda_communicator.hpp"
#include "comm/transport.hpp"
#include "core/arena.hpp"
#include "core/error.hpp"
#include "core/stream.hpp"
#include "core/transfer.hpp"

namespace longlora {
namespace {

using Bytes = std::vector<char>;

// Of another content and length for each pair, phase and place in it.
Bytes message(int from, int to, int phase, int place) {
    Bytes bytes(static_cast<std::size_t>(1000 + 700 * from + 300 * to + 5000 * place));
    auto state = static_cast<unsigned>(((phase * 16 + place) * 16 + from) * 16 + to);
    for (char& byte : bytes) {
        state = state * 1664525U + 1013904223U;
        byte = static_cast<char>(state >> 24U);
    }
    return bytes;
}

// Each rank sends two messages to each of the others, as full attention with a closed ring would.
class Exchange {
public:
    Exchange(const Communicator<CudaFloat>& ranks, int phase) : ranks_(ranks), phase_(phase) {}

    void run(bool starts) {
        for_others([&](int peer, int place) {
            auto& memory = memory_.emplace_back(
                static_cast<Index>(message(peer, ranks_.rank(), phase_, place).size()));
            requests_.push_back(ranks_.receive(stream_, memory.view(), peer, place));
        });
        for_others([&](int peer, int place) {
            const Bytes bytes = message(ranks_.rank(), peer, phase_, place);
            auto& memory = memory_.emplace_back(static_cast<Index>(bytes.size()));
            copy_to_device(stream_, memory.view().data(), bytes.data(), bytes.size());
            const View<CudaFloat, const char, 1> view = memory.view();
            requests_.push_back(ranks_.send(stream_, view, peer, place));
        });
        if (starts) {
            ranks_.start_messages();
        }
        for (Request& request : requests_) {
            request.wait([this] { poll(); });
        }
    }

    void check() {
        std::size_t i = 0;
        for_others([&](int peer, int place) {
            Bytes found(static_cast<std::size_t>(memory_[i].view().size()));
            copy_to_host(stream_, found.data(), memory_[i].view().data(), found.size());
            BOOST_TEST((found == message(peer, ranks_.rank(), phase_, place)));
            ++i;
        });
    }

private:
    template <class Work>
    void for_others(const Work& work) const {
        for (int peer = 0; peer < ranks_.size(); ++peer) {
            for (int place = 0; place < 2 && peer != ranks_.rank(); ++place) {
                work(peer, place);
            }
        }
    }
    void poll() {
        for (Request& request : requests_) {
            request.test();
        }
    }

    const Communicator<CudaFloat>& ranks_;
    int phase_;
    Stream<CudaFloat> stream_;
    std::vector<Buffer<CudaFloat, char>> memory_;
    std::vector<Request> requests_;
};

void exchange(Transport wanted) {
    const auto world = Communicator<CudaFloat>::world();
    BOOST_TEST_MESSAGE("messages by " + choose_transport(world, wanted));
    const auto ranks = world.split(0, world.size() - world.rank());
    for (int phase = 0; phase < 4; ++phase) {
        Exchange one(ranks, phase);
        one.run(phase % 2 == 0);
        one.check();
    }
}

BOOST_AUTO_TEST_CASE(messages_reach_their_ranks) { exchange(Transport::automatic); }
BOOST_AUTO_TEST_CASE(messages_reach_their_ranks_through_the_host) { exchange(Transport::mpi); }

BOOST_AUTO_TEST_CASE(nccl_is_refused_to_ranks_that_share_a_gpu) {
    const auto world = Communicator<Cpu>::world();
    const std::string chosen = choose_transport(world, Transport::automatic);
    BOOST_TEST(chosen == world.broadcast_text(chosen, 0));
    if (chosen.starts_with("MPI")) {
        BOOST_CHECK_THROW(choose_transport(world, Transport::nccl), Error);
    } else {
        BOOST_TEST(choose_transport(world, Transport::nccl) == chosen);
    }
}

}  // namespace
}  // namespace longlora
