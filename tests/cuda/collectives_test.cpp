// Sums and gathers of arrays on the GPUs of ranks against what each rank computes for itself: by what
// choose_transport() chooses, through the host, and through the host in parts of a few hundred bytes.
#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "comm/cuda_communicator.hpp"
#include "comm/device_collectives.hpp"
#include "comm/transport.hpp"
#include "core/arena.hpp"
#include "core/device_memory.hpp"
#include "core/error.hpp"
#include "core/stream.hpp"
#include "core/transfer.hpp"

namespace longlora {
namespace {

using Pieces = std::vector<Range>;

std::uint64_t random_bits(std::uint64_t key) {
    key = (key + 1) * 0x9E3779B97F4A7C15U;
    key = (key ^ (key >> 30U)) * 0xBF58476D1CE4E5B9U;
    return key ^ (key >> 27U);
}

// Of both signs, and as large as sums of eight ranks allow.
std::int64_t addend(int rank, Index i, int turn) {
    const auto key = (static_cast<std::uint64_t>(turn) * 64 + static_cast<std::uint64_t>(rank))
                     << 40U;
    return static_cast<std::int64_t>(random_bits(key + static_cast<std::uint64_t>(i))) / 8;
}
float weight(Index i, int turn) { return static_cast<float>(addend(0, i, turn) % 100'000) / 7; }

// Ranges of these lengths, one after another.
Pieces of_lengths(const std::vector<Index>& lengths) {
    Pieces pieces;
    Index place = 0;
    for (const Index length : lengths) {
        pieces.push_back({place, place + length});
        place += length;
    }
    return pieces;
}

// Even and uneven, empty at either end and between.
std::vector<Pieces> all_pieces(int ranks) {
    std::vector<Pieces> all{equal_pieces(10'007, ranks), equal_pieces(0, ranks),
                            equal_pieces(40, ranks)};
    std::vector<Index> growing;
    for (Index rank = 0; rank < ranks; ++rank) {
        growing.push_back(rank * 777);
    }
    all.push_back(of_lengths(growing));
    all.push_back(of_lengths({growing.rbegin(), growing.rend()}));
    for (int owner = 0; owner < ranks; ++owner) {
        std::vector<Index> lengths(static_cast<std::size_t>(ranks));
        lengths[static_cast<std::size_t>(owner)] = 1001;
        all.push_back(of_lengths(lengths));
    }
    return all;
}

// An array of the GPU between guards. It is written and read in the order of the stream.
template <class T>
class Guarded {
public:
    Guarded(const Stream<CudaFloat>& stream, const std::vector<T>& values)
        : stream_(stream), size_(static_cast<Index>(values.size())), memory_(size_ + 2 * guard) {
        std::vector<T> whole(static_cast<std::size_t>(size_ + 2 * guard), T(42));
        std::copy(values.begin(), values.end(), whole.begin() + guard);
        copy_to_device(stream_, memory_.view().data(), whole.data(), whole.size() * sizeof(T));
    }

    const Stream<CudaFloat>& stream() const { return stream_; }
    View<CudaFloat, T, 1> view() { return memory_.view().slice({guard, guard + size_}); }
    std::vector<T> read() {
        std::vector<T> whole(static_cast<std::size_t>(size_ + 2 * guard));
        copy_to_host(stream_, whole.data(), memory_.view().data(), whole.size() * sizeof(T));
        for (Index i = 0; i < guard; ++i) {
            BOOST_TEST(whole[static_cast<std::size_t>(i)] == T(42));
            BOOST_TEST(whole[static_cast<std::size_t>(guard + size_ + i)] == T(42));
        }
        return {whole.begin() + guard, whole.end() - guard};
    }

private:
    static constexpr Index guard = 8;

    const Stream<CudaFloat>& stream_;
    Index size_;
    Buffer<CudaFloat, T> memory_;
};

// What is tested: communicators, and what they are made of with small parts.
struct Tested {
    Stream<CudaFloat> stream;
    std::function<void(Guarded<std::int64_t>&, const Pieces&)> sum;
    std::function<void(Guarded<float>&, const Pieces&)> gather;
};

template <class T>
void check_equal(const std::vector<T>& found, Range range,
                 const std::function<T(Index)>& expected) {
    Index wrong = 0;
    for (Index i = range.begin; i < range.end; ++i) {
        wrong += found[static_cast<std::size_t>(i)] != expected(i) ? 1 : 0;
    }
    BOOST_TEST(wrong == 0, wrong << " of " << range.size() << " are wrong");
}

void check_sum(const Tested& tested, const Communicator<Cpu>& world, const Pieces& pieces,
               int turn) {
    std::vector<std::int64_t> mine;
    for (Index i = 0; i < pieces.back().end; ++i) {
        mine.push_back(addend(world.rank(), i, turn));
    }
    Guarded<std::int64_t> array(tested.stream, mine);
    tested.sum(array, pieces);
    check_equal<std::int64_t>(array.read(), pieces[static_cast<std::size_t>(world.rank())],
                              [&](Index i) {
                                  std::int64_t sum = 0;
                                  for (int rank = 0; rank < world.size(); ++rank) {
                                      sum += addend(rank, i, turn);
                                  }
                                  return sum;
                              });
}

void check_gather(const Tested& tested, const Communicator<Cpu>& world, const Pieces& pieces,
                  int turn) {
    const Range own = pieces[static_cast<std::size_t>(world.rank())];
    std::vector<float> mine;
    for (Index i = 0; i < pieces.back().end; ++i) {
        mine.push_back(i >= own.begin && i < own.end ? weight(i, turn) : -1.0F);
    }
    Guarded<float> array(tested.stream, mine);
    tested.gather(array, pieces);
    check_equal<float>(array.read(), {0, pieces.back().end},
                       [&](Index i) { return weight(i, turn); });
}

void check(const Tested& tested, const std::vector<Pieces>& all) {
    const auto world = Communicator<Cpu>::world();
    int turn = 0;
    for (const Pieces& pieces : all) {
        BOOST_TEST_CONTEXT("turn " << turn << ", rank " << world.rank()) {
            check_sum(tested, world, pieces, turn);
            check_gather(tested, world, pieces, turn);
        }
        ++turn;
    }
}

void check_communicator(Transport wanted) {
    const auto world = Communicator<CudaFloat>::world();
    BOOST_TEST_MESSAGE("sums by " + choose_transport(world, wanted));
    auto all = all_pieces(world.size());
    all.push_back(equal_pieces(2'200'001, world.size(), 4096));  // more than one part
    const auto sum = [&](Guarded<std::int64_t>& array, const Pieces& pieces) {
        world.reduce_scatter_sum(array.stream(), array.view(), pieces);
    };
    const auto gather = [&](Guarded<float>& array, const Pieces& pieces) {
        world.all_gather(array.stream(), array.view(), pieces);
    };
    check({Stream<CudaFloat>(), sum, gather}, all);
}

void check_parts(Index part_bytes) {
    const auto world = Communicator<Cpu>::world();
    const auto parts = make_staged_collectives(world, part_bytes);
    const auto sum = [&](Guarded<std::int64_t>& array, const Pieces& pieces) {
        parts->reduce_scatter_sum(world, array.stream(), {array.view().data(), array.view().size()},
                                  pieces);
    };
    const auto gather = [&](Guarded<float>& array, Pieces pieces) {
        for (Range& piece : pieces) {
            piece = {4 * piece.begin, 4 * piece.end};
        }
        auto* const bytes = reinterpret_cast<char*>(array.view().data());
        parts->all_gather(world, array.stream(), {bytes, 4 * array.view().size()}, pieces);
    };
    check({Stream<CudaFloat>(), sum, gather}, all_pieces(world.size()));
}

BOOST_AUTO_TEST_CASE(sums_and_gathers_are_those_of_all_ranks) {
    check_communicator(Transport::automatic);
}
BOOST_AUTO_TEST_CASE(they_are_so_through_the_host) { check_communicator(Transport::mpi); }
BOOST_AUTO_TEST_CASE(they_are_so_in_parts) { check_parts(5000); }
// A part has one unit of each rank at least.
BOOST_AUTO_TEST_CASE(they_are_so_in_parts_that_are_too_small) { check_parts(1); }

BOOST_AUTO_TEST_CASE(memory_is_taken_by_the_first_sum_and_never_again) {
    for (const Transport wanted : {Transport::automatic, Transport::mpi}) {
        const auto world = Communicator<CudaFloat>::world();
        choose_transport(world, wanted);
        const Pieces pieces = equal_pieces(1000, world.size());
        const Stream<CudaFloat> stream;
        Guarded<std::int64_t> sums(stream, std::vector<std::int64_t>(1000, 1));
        Guarded<float> weights(stream, std::vector<float>(1000));
        world.reduce_scatter_sum(sums.stream(), sums.view(), pieces);
        const AllocationBan ban;
        world.reduce_scatter_sum(sums.stream(), sums.view(), pieces);
        world.all_gather(weights.stream(), weights.view(), pieces);
    }
}

#if LONGLORA_CUDA_EMULATED
// What a GPU would answer with a hang or with wrong sums.
BOOST_AUTO_TEST_CASE(the_emulator_refuses_collectives_that_differ) {
    const auto world = Communicator<CudaFloat>::world();
    if (world.size() != 2 || !choose_transport(world, Transport::automatic).starts_with("NCCL")) {
        return;
    }
    const Stream<CudaFloat> stream;
    Guarded<std::int64_t> sums(stream, std::vector<std::int64_t>(200));
    const Pieces pieces = of_lengths({100 + world.rank(), 100 - world.rank()});
    BOOST_CHECK_THROW(world.reduce_scatter_sum(sums.stream(), sums.view(), pieces), Error);
}
#endif

}  // namespace
}  // namespace longlora
