#pragma once

#include <cstddef>
#include <deque>
#include <memory>
#include <mutex>

#include "cuda_runtime_api.h"

namespace longlora::emulator {

// A stream's copies within the GPU's memory and pinned memory of the host, or between them, which run while
// others compute. They are made as late as can be: until somebody who may count on them looks (the stream's next work, one
// that waits for an event behind them, the host when it synchronises) their place holds NaN.
class LateCopies {
public:
    static std::shared_ptr<LateCopies> of_new_stream();

    void add(void* to, const void* from, std::size_t bytes);
    std::size_t count() const;  // added so far
    // The first `count` of them happen.
    void happen(std::size_t count);
    void happen() { happen(count()); }

private:
    struct Copy {
        void* to;
        const void* from;
        std::size_t bytes;
    };

    void make(std::size_t count);  // the next ones

    mutable std::mutex mutex_;
    std::deque<Copy> waiting_;
    std::size_t past_ = 0;
};

void add_copy(cudaStream_t stream, void* to, const void* from, std::size_t bytes);
// The stream's have happened; null: the default stream, which has none.
void finish_copies(cudaStream_t stream);
// Of all streams.
void finish_copies();

}  // namespace longlora::emulator
