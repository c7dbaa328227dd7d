// NCCL on one GPU, where a rank sends to itself; in the emulator as well.
#include "comm/cuda/nccl.hpp"

#include <cstdint>
#include <cstdio>
#include <memory>
#include <numeric>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "core/arena.hpp"
#include "core/cuda_device.hpp"
#include "core/error.hpp"
#include "core/pinned_memory.hpp"
#include "core/stream.hpp"
#include "core/transfer.hpp"

namespace longlora {
namespace {

using Bytes = std::vector<char>;

Bytes random_bytes(Index size, unsigned key) {
    Bytes bytes(static_cast<std::size_t>(size));
    unsigned state = key * 2654435761U + 1;
    for (char& byte : bytes) {
        state = state * 1664525U + 1013904223U;
        byte = static_cast<char>(state >> 24U);
    }
    return bytes;
}

struct Loop {
    Loop() : ranks(Communicator<Cpu>::world()), transport(make_nccl_loop()) {}

    View<Cpu, char, 1> view(Buffer<CudaFloat, char>& memory) const {
        return {memory.view().data(), memory.view().size()};
    }
    Request send(Buffer<CudaFloat, char>& memory) const {
        return transport->send(ranks, compute, view(memory), 0, 0);
    }
    Request receive(Buffer<CudaFloat, char>& memory) const {
        return transport->receive(ranks, compute, view(memory), 0, 0);
    }
    void write(Buffer<CudaFloat, char>& memory, const Bytes& bytes) const {
        copy_to_device(compute, memory.view().data(), bytes.data(), bytes.size());
    }
    Bytes read(Buffer<CudaFloat, char>& memory) const {
        Bytes bytes(static_cast<std::size_t>(memory.view().size()));
        copy_to_host(compute, bytes.data(), memory.view().data(), bytes.size());
        return bytes;
    }

    Communicator<Cpu> ranks;
    Stream<CudaFloat> compute;
    std::unique_ptr<HaloTransport> transport;
};

BOOST_AUTO_TEST_CASE(messages_arrive_in_the_order_in_which_they_are_sent) {
    const Loop loop;
    const std::vector<Index> sizes{1, 16388, Index{8} << 20U, 16388};
    std::vector<Buffer<CudaFloat, char>> from;
    std::vector<Buffer<CudaFloat, char>> to;
    std::vector<Request> requests;
    for (std::size_t i = 0; i < sizes.size(); ++i) {
        loop.write(from.emplace_back(sizes[i]), random_bytes(sizes[i], static_cast<unsigned>(i)));
        requests.push_back(loop.receive(to.emplace_back(sizes[i])));
    }
    for (auto& memory : from) {
        requests.push_back(loop.send(memory));
    }
    loop.transport->start();
    for (Request& request : requests) {
        request.wait();
    }
    for (std::size_t i = 0; i < sizes.size(); ++i) {
        BOOST_TEST((loop.read(to[i]) == random_bytes(sizes[i], static_cast<unsigned>(i))));
    }
}

// Nothing is waited for on the host but the messages, which the GPU must order among its other work.
BOOST_AUTO_TEST_CASE(messages_keep_their_place_in_the_work_of_the_gpu) {
    const Loop loop;
    constexpr std::size_t size = 1U << 20U;
    constexpr unsigned turns = 20;
    const PinnedMemory given(size * turns, "a test");
    const PinnedMemory found(size * turns, "a test");
    Bytes expected;
    for (unsigned turn = 0; turn < turns; ++turn) {
        const Bytes bytes = random_bytes(size, turn);
        expected.insert(expected.end(), bytes.begin(), bytes.end());
    }
    std::copy(expected.begin(), expected.end(), static_cast<char*>(given.data()));
    Buffer<CudaFloat, char> from(size);
    Buffer<CudaFloat, char> to(size);
    for (unsigned turn = 0; turn < turns; ++turn) {
        copy_async(loop.compute, from.view().data(),
                   static_cast<const char*>(given.data()) + turn * size, size);
        Request receiving = loop.receive(to);
        Request sending = loop.send(from);
        loop.transport->start();
        receiving.wait();
        sending.wait();
        copy_async(loop.compute, static_cast<char*>(found.data()) + turn * size, to.view().data(),
                   size);
    }
    loop.compute.synchronize();
    BOOST_TEST(
        std::equal(expected.begin(), expected.end(), static_cast<const char*>(found.data())));
}

// Kept K/V lie there.
BOOST_AUTO_TEST_CASE(messages_may_come_from_pinned_memory) {
    const Loop loop;
    constexpr Index size = 100'000;
    const Bytes bytes = random_bytes(size, 1);
    const PinnedMemory from(bytes.size(), "a test");
    std::copy(bytes.begin(), bytes.end(), static_cast<char*>(from.data()));
    Buffer<CudaFloat, char> to(size);
    Request receiving = loop.receive(to);
    const View<Cpu, const char, 1> pinned(static_cast<const char*>(from.data()), size);
    Request sending = loop.transport->send(loop.ranks, loop.compute, pinned, 0, 0);
    loop.transport->start();
    receiving.wait();
    sending.wait();
    BOOST_TEST((loop.read(to) == bytes));
}

BOOST_AUTO_TEST_CASE(phases_may_overlap_and_begin_when_they_are_looked_at) {
    const Loop loop;
    std::vector<Buffer<CudaFloat, char>> from;
    std::vector<Buffer<CudaFloat, char>> to;
    std::vector<Request> requests;
    for (unsigned phase = 0; phase < 3; ++phase) {
        loop.write(from.emplace_back(5000), random_bytes(5000, phase));
        requests.push_back(loop.receive(to.emplace_back(5000)));
        requests.push_back(loop.send(from.back()));
        if (phase < 2) {
            loop.transport->start();
        }
    }
    while (!requests.empty()) {
        requests.back().wait();
        requests.pop_back();
    }
    for (unsigned phase = 0; phase < 3; ++phase) {
        BOOST_TEST((loop.read(to[phase]) == random_bytes(5000, phase)));
    }
}

BOOST_AUTO_TEST_CASE(a_fault_of_the_library_is_an_error_with_its_reason) {
    const Loop loop;
    Buffer<CudaFloat, char> to(100);
    Request receiving = loop.receive(to);  // that nobody sends
    BOOST_CHECK_EXCEPTION(loop.transport->start(), Error, [](const Error& error) {
        return std::string(error.what()).starts_with("NCCL failed to start messages: ");
    });
}

// All that a lone rank can see of them: that they leave its array as it is.
BOOST_AUTO_TEST_CASE(collectives_of_a_lone_rank_keep_its_array) {
    const Loop loop;
    const auto collectives = make_nccl_lone_collectives();
    for (const Index size : {Index{100'000}, Index{0}}) {
        const Bytes bytes = random_bytes(size * Index{sizeof(std::int64_t)}, 1);
        Buffer<CudaFloat, char> memory(static_cast<Index>(bytes.size()));
        loop.write(memory, bytes);
        auto* const values = reinterpret_cast<std::int64_t*>(memory.view().data());
        collectives->reduce_scatter_sum(loop.ranks, loop.compute, {values, size}, {{0, size}});
        collectives->all_gather(loop.ranks, loop.compute, loop.view(memory),
                                {{0, static_cast<Index>(bytes.size())}});
        BOOST_TEST((loop.read(memory) == bytes));
    }
}

BOOST_AUTO_TEST_CASE(a_fault_of_a_collective_is_an_error_with_its_reason) {
    const Loop loop;
    Buffer<CudaFloat, char> memory(100);
    const std::vector<Range> pieces{{0, 50}, {50, 100}};  // there is no second rank
    const auto has_reason = [](const Error& error) {
        return std::string(error.what()).starts_with("NCCL failed to take a message: ");
    };
    const auto collectives = make_nccl_lone_collectives();
    BOOST_CHECK_EXCEPTION(
        collectives->all_gather(loop.ranks, loop.compute, loop.view(memory), pieces), Error,
        has_reason);
}

}  // namespace
}  // namespace longlora

int main(int argc, char** argv) {
    if (longlora::cuda_device_count() == 0 || longlora::nccl_version().empty()) {
        std::puts("skipped: no GPU, or no library libnccl.so.2");
        return 77;
    }
    std::printf("NCCL %s\n", longlora::nccl_version().c_str());
    return boost::unit_test::unit_test_main([] { return true; }, argc, argv);
}
