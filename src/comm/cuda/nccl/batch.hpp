#pragma once

#include <cuda_runtime_api.h>

#include <functional>
#include <vector>

#include "comm/cuda/nccl/ranks.hpp"
#include "core/cuda_stream.hpp"

namespace longlora {

// Messages or collectives that begin together: one call of NCCL and one kernel for all of them, so that
// none waits for another, whatever ring they close. It serves again when all have ended.
class NcclBatch {
public:
    NcclBatch();
    ~NcclBatch();
    NcclBatch(const NcclBatch&) = delete;
    NcclBatch& operator=(const NcclBatch&) = delete;

    // `post` makes one call of NCCL's, at the start.
    using Post = std::function<ncclResult_t(ncclComm_t, cudaStream_t)>;
    void add(Post post);
    void start(NcclRanks& ranks, const CudaStream& stream);
    bool is_done() const;  // of one that was started
    // Later work of `compute` comes after all of it.
    void before(const CudaStream& compute) const;

private:
    std::vector<Post> posts_;
    cudaEvent_t done_ = nullptr;
};

}  // namespace longlora
