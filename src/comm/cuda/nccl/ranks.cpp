#include "comm/cuda/nccl/ranks.hpp"

#include <exception>
#include <string>

#include "core/error.hpp"

namespace longlora {

namespace {

Error error_of(ncclResult_t result, const char* what) {
    return {std::string("NCCL failed to ") + what + ": " + ncclGetErrorString(result) + " (" +
                ncclGetLastError(nullptr) + ")",
            ExitCode::failure};
}

}  // namespace

void nccl_check(ncclResult_t result, const char* what) {
    if (result != ncclSuccess) {
        throw error_of(result, what);
    }
}

NcclRanks::NcclRanks(const ncclUniqueId& id, int size, int rank)
    : errors_at_start_(std::uncaught_exceptions()) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 1;
    nccl_check(ncclCommInitRankConfig(&comm_, size, id, rank, &config), "connect the ranks");
}

NcclRanks::~NcclRanks() {
    if (std::uncaught_exceptions() > errors_at_start_) {
        abort();
    } else if (comm_ != nullptr) {
        ncclCommDestroy(comm_);
    }
}

void NcclRanks::check(ncclResult_t result, const char* what) {
    if (result != ncclSuccess) {
        const Error error = error_of(result, what);  // before the reason is lost
        abort();
        throw error;
    }
}

void NcclRanks::check_messages() {
    ncclResult_t state = ncclSuccess;
    check(ncclCommGetAsyncError(comm_, &state), "ask for errors");
    check(state == ncclInProgress ? ncclSuccess : state, "pass messages on");
}

void NcclRanks::abort() noexcept {
    if (comm_ != nullptr) {
        ncclCommAbort(comm_);
        comm_ = nullptr;
    }
}

}  // namespace longlora
