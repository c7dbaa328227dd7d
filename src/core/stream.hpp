#pragma once

#include "core/cuda_stream.hpp"
#include "core/device.hpp"
#include "core/view.hpp"

namespace longlora {

// Order of work on a device, passed explicitly to each kernel. On the CPU a kernel has ended when
// its function returns, so the stream only says how many threads it may use.
template <class Device>
class Stream;

template <>
class Stream<Cpu> {
public:
    explicit Stream(int threads = 1) : threads_(threads) {}

    int threads() const { return threads_; }
    void synchronize() const {}

private:
    int threads_;
};

template <class Storage>
class Stream<CudaDevice<Storage>> : public CudaStream {
public:
    explicit Stream(int /*threads*/ = 1) {}
    explicit Stream(Priority priority) : CudaStream(priority) {}
};

// Calls body(i) for i in [0, count), spread dynamically over the stream's threads.
// The body must not throw.
template <class Body>
void parallel_for(const Stream<Cpu>& stream, Index count, const Body& body) {
    if (stream.threads() <= 1 || count <= 1) {
        for (Index i = 0; i < count; ++i) {
            body(i);
        }
        return;
    }
#pragma omp parallel for schedule(dynamic, 1) num_threads(stream.threads())
    for (Index i = 0; i < count; ++i) {
        body(i);
    }
}

// Calls body(range) for consecutive ranges of at most `block` that cover [0, count).
template <class Body>
void parallel_blocks(const Stream<Cpu>& stream, Index count, Index block, const Body& body) {
    parallel_for(stream, ceil_div(count, block), [&](Index i) {
        body(Range{i * block, (i + 1) * block < count ? (i + 1) * block : count});
    });
}

}  // namespace longlora
