#pragma once

#include <cstddef>
#include <memory>
#include <string>

struct CUstream_st;  // *: cudaStream_t

namespace longlora {

// An order of work on the GPU that this process has chosen. Kernels, copies and products of one
// stream run one after another; the host runs ahead until it synchronises.
class CudaStream {
public:
    // On the GPU that is current in this thread. What runs on a stream of high priority starts first.
    enum class Priority { normal, high };
    explicit CudaStream(Priority priority = Priority::normal);
    ~CudaStream();
    CudaStream(CudaStream&& other) noexcept;
    CudaStream& operator=(CudaStream&& other) noexcept;

    CUstream_st* handle() const;
    // Until all work has ended; an Error if some of it failed.
    void synchronize() const;
    // This stream waits, on the GPU, for what `other` has been given so far.
    void wait_for(const CudaStream& other) const;

    // Memory for products under way, the stream's own so that streams do not disturb each other.
    static constexpr std::size_t workspace_bytes = std::size_t{32} << 20U;
    void* workspace() const;

private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace longlora
