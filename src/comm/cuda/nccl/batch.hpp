#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <vector>

#include "comm/cuda/nccl/ranks.hpp"
#include "core/cuda_stream.hpp"

namespace longlora {

// Messages that begin together: one call of NCCL and one kernel for all of them, so that none waits for
// another, whatever ring they close. It serves again when its messages have arrived.
class NcclBatch {
public:
    NcclBatch();
    ~NcclBatch();
    NcclBatch(const NcclBatch&) = delete;
    NcclBatch& operator=(const NcclBatch&) = delete;

    void add_send(const void* bytes, std::size_t count, int to);
    void add_receive(void* bytes, std::size_t count, int from);
    void start(NcclRanks& ranks, const CudaStream& halo);
    bool is_done() const;  // of one that was started
    // Later work of `compute` comes after all messages.
    void before(const CudaStream& compute) const;

private:
    struct Post {
        const void* outgoing;  // or null
        void* incoming;
        std::size_t count;
        int peer;
    };
    static ncclResult_t give(const Post& post, const NcclRanks& ranks, const CudaStream& halo);

    std::vector<Post> posts_;
    cudaEvent_t done_ = nullptr;
};

}  // namespace longlora
