#include "comm/cuda/nccl/ranks.hpp"

#include <exception>
#include <optional>
#include <string>

#include "comm/watchdog.hpp"
#include "core/error.hpp"

namespace longlora {

namespace {

Error error_of(ncclResult_t result, const char* what) {
    return {std::string("NCCL failed to ") + what + ": " + ncclGetErrorString(result) + " (" +
                ncclGetLastError(nullptr) + ")",
            ExitCode::failure};
}

// Around calls that wait inside NCCL for other ranks.
class WatchOverOthers {
public:
    explicit WatchOverOthers(int size) {
        if (size > 1) {
            watchdog_.emplace();
        }
    }

private:
    std::optional<Watchdog> watchdog_;
};

ncclUniqueId new_id() {
    ncclUniqueId id{};
    nccl_check(ncclGetUniqueId(&id), "name a group of ranks");
    return id;
}

ncclUniqueId common_id(const Communicator<Cpu>& ranks) {
    ncclUniqueId id = ranks.rank() == 0 ? new_id() : ncclUniqueId{};
    ranks.broadcast(View<Cpu, char, 1>(id.internal, NCCL_UNIQUE_ID_BYTES), 0);
    return id;
}

}  // namespace

void nccl_check(ncclResult_t result, const char* what) {
    if (result != ncclSuccess) {
        throw error_of(result, what);
    }
}

NcclRanks::NcclRanks() : NcclRanks(new_id(), 1, 0) {}

NcclRanks::NcclRanks(const Communicator<Cpu>& ranks)
    : NcclRanks(common_id(ranks), ranks.size(), ranks.rank()) {}

NcclRanks::NcclRanks(const ncclUniqueId& id, int size, int rank)
    : size_(size), errors_at_start_(std::uncaught_exceptions()) {
    const WatchOverOthers watch(size_);
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

// A group that was opened is closed, whatever happens: NCCL could not be ended within one.
void NcclRanks::start_group(const std::function<ncclResult_t(ncclComm_t)>& post) {
    const WatchOverOthers watch(size_);
    check(ncclGroupStart(), "begin a group of messages");
    const ncclResult_t posted = post(comm_);
    const ncclResult_t started = ncclGroupEnd();
    check(posted, "take a message");
    check(started, "start messages");
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
