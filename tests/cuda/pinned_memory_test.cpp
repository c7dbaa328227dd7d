#include "core/pinned_memory.hpp"

#include <cstdint>
#include <utility>

#include "core/arena.hpp"
#include "core/transfer.hpp"
#include "cuda/device_matrix.hpp"

using namespace longlora;
using namespace longlora::cuda_test;

// Of CUDA's own pages, and of pages of the system that are pinned: what left comes back, from the first
// byte to the last.
BOOST_AUTO_TEST_CASE(what_is_copied_to_the_device_comes_back) {
    const Stream<Cuda> stream;
    for (const std::size_t bytes : {std::size_t{1000}, (std::size_t{64} << 20U) + 5}) {
        Arena<Cuda> arena("test", bytes + 256);
        const auto on_device = arena.vector<unsigned char>(static_cast<Index>(bytes));
        const PinnedMemory from(bytes, "a test");
        PinnedMemory moved(bytes, "a test");
        PinnedMemory to;
        to = std::move(moved);
        auto* const first = static_cast<unsigned char*>(from.data());
        const auto byte = [](std::size_t i) {
            return static_cast<unsigned char>(i * 2654435761U >> 13U);
        };
        for (std::size_t i = 0; i < bytes; ++i) {
            first[i] = byte(i);
        }
        copy_async(stream, on_device.data(), from.data(), bytes);
        copy_async(stream, to.data(), on_device.data(), bytes);
        stream.synchronize();
        const auto* const back = static_cast<const unsigned char*>(to.data());
        std::size_t wrong = 0;
        for (std::size_t i = 0; i < bytes; ++i) {
            wrong += back[i] != byte(i) ? 1 : 0;
        }
        BOOST_TEST(wrong == 0U);
    }
}

BOOST_AUTO_TEST_CASE(nothing_is_pinned_where_nothing_is_asked_for) {
    const PinnedMemory none(0, "a test");
    BOOST_TEST(none.data() == nullptr);
}
