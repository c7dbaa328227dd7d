#pragma once

#include <functional>

#include "comm/communicator.hpp"
#include "comm/cuda/nccl/library.hpp"

namespace longlora {

// An Error with NCCL's reason unless `result` is success.
void nccl_check(ncclResult_t result, const char* what);

// This rank's end of a communicator of NCCL's. It ends together with those of the others, or alone when
// this rank is about to end with an error.
class NcclRanks {
public:
    NcclRanks();  // this rank alone
    // Collective over `ranks`, each on the GPU that is current.
    explicit NcclRanks(const Communicator<Cpu>& ranks);
    ~NcclRanks();
    NcclRanks(const NcclRanks&) = delete;
    NcclRanks& operator=(const NcclRanks&) = delete;

    // All that `post` gives to NCCL begins together. Aborts and throws unless both succeed. NCCL connects
    // ranks when they first talk, within this.
    void start_group(const std::function<ncclResult_t(ncclComm_t)>& post);
    // Aborts and throws where something has gone wrong since messages began: a peer has died, a link is
    // broken.
    void check_messages();
    // The GPU stops waiting for other ranks: without this it could not be given back.
    void abort() noexcept;

private:
    NcclRanks(const ncclUniqueId& id, int size, int rank);
    void check(ncclResult_t result, const char* what);

    int size_;
    ncclComm_t comm_ = nullptr;
    int errors_at_start_;
};

}  // namespace longlora
