#include "comm/cuda/nccl/batch.hpp"

#include "core/cuda_check.hpp"

namespace longlora {

NcclBatch::NcclBatch() {
    cuda_check(cudaEventCreateWithFlags(&done_, cudaEventDisableTiming), "make an event");
}
NcclBatch::~NcclBatch() { cudaEventDestroy(done_); }

void NcclBatch::add_send(const void* bytes, std::size_t count, int to) {
    posts_.push_back({bytes, nullptr, count, to});
}

void NcclBatch::add_receive(void* bytes, std::size_t count, int from) {
    posts_.push_back({nullptr, bytes, count, from});
}

ncclResult_t NcclBatch::give(const Post& post, const NcclRanks& ranks, const CudaStream& halo) {
    return post.outgoing != nullptr ? ncclSend(post.outgoing, post.count, ncclChar, post.peer,
                                               ranks.handle(), halo.handle())
                                    : ncclRecv(post.incoming, post.count, ncclChar, post.peer,
                                               ranks.handle(), halo.handle());
}

// A group that was opened is closed, whatever happens: NCCL could not be ended within one.
void NcclBatch::start(NcclRanks& ranks, const CudaStream& halo) {
    ranks.check(ncclGroupStart(), "begin a group of messages");
    ncclResult_t given = ncclSuccess;
    for (const Post& post : posts_) {
        given = given == ncclSuccess ? give(post, ranks, halo) : given;
    }
    const ncclResult_t started = ncclGroupEnd();
    ranks.check(given, "take a message");
    ranks.check(started, "start messages");
    posts_.clear();
    cuda_check(cudaEventRecord(done_, halo.handle()), "mark a moment");
}

bool NcclBatch::is_done() const {
    const cudaError_t status = cudaEventQuery(done_);
    if (status != cudaErrorNotReady) {
        cuda_check(status, "pass messages on");
    }
    return status == cudaSuccess;
}

void NcclBatch::before(const CudaStream& compute) const {
    cuda_check(cudaStreamWaitEvent(compute.handle(), done_, 0), "wait for a moment");
}

}  // namespace longlora
