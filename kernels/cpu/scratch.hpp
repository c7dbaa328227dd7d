#pragma once

#include <cstddef>

#include <hwy/aligned_allocator.h>

#include "core/view.hpp"

namespace longlora {

// Whose memory it is: one thread may hold one of each at a time.
enum class ScratchUse { attention, packed_rows, packed_panels };

// Aligned memory of one thread for the duration of one call, kept for the next: some megabytes
// at most, so it is not taken from an arena. Pieces are handed out in order.
template <ScratchUse use>
class ThreadScratch {
public:
    explicit ThreadScratch(Index capacity) {
        thread_local hwy::AlignedFreeUniquePtr<float[]> memory;
        thread_local Index size = 0;
        if (size < capacity) {
            memory = hwy::AllocateAligned<float>(static_cast<std::size_t>(capacity));
            size = capacity;
        }
        next_ = memory.get();
    }

    // `size` floats, a multiple of 16 so that the following piece is aligned too.
    float* take(Index size) {
        float* piece = next_;
        next_ += size;
        return piece;
    }

private:
    float* next_;
};

}  // namespace longlora
