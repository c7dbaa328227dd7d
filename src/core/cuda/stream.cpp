#include <utility>

#include "core/cuda_check.hpp"
#include "core/cuda_stream.hpp"
#include "core/device_memory.hpp"
#include "core/transfer.hpp"

namespace longlora {

struct CudaStream::State {
    cudaStream_t stream = nullptr;
    cudaEvent_t event = nullptr;  // for those that wait for this stream
    void* workspace = nullptr;    // when it is asked for: streams of copies need none

    explicit State(Priority priority) {
        int least = 0;
        int greatest = 0;
        cuda_check(cudaDeviceGetStreamPriorityRange(&least, &greatest), "ask for priorities");
        cuda_check(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking,
                                                priority == Priority::high ? greatest : least),
                   "make a stream");
        cuda_check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "make an event");
    }
    ~State() {
        release_cuda_memory(workspace);
        cudaEventDestroy(event);
        cudaStreamDestroy(stream);
    }
    State(const State&) = delete;
    State& operator=(const State&) = delete;
};

CudaStream::CudaStream(Priority priority) : state_(std::make_unique<State>(priority)) {}
CudaStream::~CudaStream() = default;
CudaStream::CudaStream(CudaStream&& other) noexcept = default;
CudaStream& CudaStream::operator=(CudaStream&& other) noexcept = default;

CUstream_st* CudaStream::handle() const { return state_->stream; }

void* CudaStream::workspace() const {
    if (state_->workspace == nullptr) {
        state_->workspace = allocate_cuda_memory(workspace_bytes, "a stream's workspace");
    }
    return state_->workspace;
}

void CudaStream::synchronize() const {
    cuda_check(cudaStreamSynchronize(state_->stream), "finish the work");
}

void CudaStream::wait_for(const CudaStream& other) const {
    cuda_check(cudaEventRecord(other.state_->event, other.state_->stream), "mark a moment");
    cuda_check(cudaStreamWaitEvent(state_->stream, other.state_->event, 0), "wait for a moment");
}

void copy_to_device(const CudaStream& stream, void* to, const void* from, std::size_t bytes) {
    cuda_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream.handle()),
               "copy to the device");
}

void copy_to_host(const CudaStream& stream, void* to, const void* from, std::size_t bytes) {
    cuda_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream.handle()),
               "copy to the host");
    stream.synchronize();
}

void copy_async(const CudaStream& stream, void* to, const void* from, std::size_t bytes) {
    cuda_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream.handle()),
               "copy between host and device");
}

void clear_bytes(const CudaStream& stream, void* to, std::size_t bytes) {
    cuda_check(cudaMemsetAsync(to, 0, bytes, stream.handle()), "clear memory");
}

}  // namespace longlora
