#pragma once

#include "comm/cuda/nccl/library.hpp"

namespace longlora {

// An Error with NCCL's reason unless `result` is success.
void nccl_check(ncclResult_t result, const char* what);

// This rank's end of a communicator of NCCL's. It ends together with those of the others, or alone when
// this rank is about to end with an error.
class NcclRanks {
public:
    // Collective over `size` ranks that know the same `id`, on the GPU that is current.
    NcclRanks(const ncclUniqueId& id, int size, int rank);
    ~NcclRanks();
    NcclRanks(const NcclRanks&) = delete;
    NcclRanks& operator=(const NcclRanks&) = delete;

    ncclComm_t handle() const { return comm_; }
    // Aborts and throws unless `result` is success.
    void check(ncclResult_t result, const char* what);
    // The same where something has gone wrong since messages began: a peer has died, a link is broken.
    void check_messages();
    // The GPU stops waiting for other ranks: without this it could not be given back.
    void abort() noexcept;

private:
    ncclComm_t comm_ = nullptr;
    int errors_at_start_;
};

}  // namespace longlora
