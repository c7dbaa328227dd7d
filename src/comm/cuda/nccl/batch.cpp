#include "comm/cuda/nccl/batch.hpp"

#include <utility>

#include "core/cuda_check.hpp"

namespace longlora {

NcclBatch::NcclBatch() {
    cuda_check(cudaEventCreateWithFlags(&done_, cudaEventDisableTiming), "make an event");
}
NcclBatch::~NcclBatch() { cudaEventDestroy(done_); }

void NcclBatch::add(Post post) { posts_.push_back(std::move(post)); }

void NcclBatch::start(NcclRanks& ranks, const CudaStream& stream) {
    ranks.start_group([&](ncclComm_t comm) {
        ncclResult_t given = ncclSuccess;
        for (const Post& post : posts_) {
            given = given == ncclSuccess ? post(comm, stream.handle()) : given;
        }
        return given;
    });
    posts_.clear();
    cuda_check(cudaEventRecord(done_, stream.handle()), "mark a moment");
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
