#include "nccl.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "late_copies.hpp"

namespace fs = std::filesystem;

// A communicator is a folder. "rank-R" says that rank R has come, and its GPU; "A-B-N" is the N-th
// message from A to B, there until B has it; "A-B-collective-N" what the N-th collective has B told by A;
// "end-R": R has left.
struct ncclComm {
    fs::path folder;
    int ranks;
    int rank;
    std::map<int, int> sent{};
    std::map<int, int> received{};
    int collectives = 0;
};

namespace {

thread_local std::string last_error;

ncclResult_t fail(ncclResult_t result, const std::string& reason) {
    last_error = reason;
    return result;
}

struct Message {
    ncclComm_t comm;
    const void* outgoing;  // or null
    void* incoming;
    std::size_t bytes;
    int peer;
    fs::path file;
    std::string call{};   // of a collective, as it must be on the other rank
    bool is_sum = false;  // what comes is added to what is there
};
thread_local int group_depth = 0;
thread_local std::vector<Message> group;

// Whole or not at all.
void write_file(const fs::path& file, const std::vector<char>& bytes) {
    const fs::path part = file.string() + ".part";
    std::ofstream(part, std::ios::binary)
        .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    fs::rename(part, file);
}

void write_text(const fs::path& file, const std::string& text) {
    write_file(file, {text.begin(), text.end()});
}

std::vector<char> read_file(const fs::path& file) {
    std::ifstream stream(file, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
}

template <class Condition>
void wait_until(const Condition& holds) {
    while (!holds()) {
        std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
}

void wait_for_all(const ncclComm& comm, const std::string& name) {
    for (int rank = 0; rank < comm.ranks; ++rank) {
        wait_until([&] { return fs::exists(comm.folder / (name + std::to_string(rank))); });
    }
}

std::string bus_of_gpu() {
    std::array<char, 32> bus{};
    cudaDeviceGetPCIBusId(bus.data(), static_cast<int>(bus.size()), 0);
    return bus.data();
}

bool share_gpu(const ncclComm& comm) {
    std::set<std::vector<char>> seen;
    for (int rank = 0; rank < comm.ranks; ++rank) {
        seen.insert(read_file(comm.folder / ("rank-" + std::to_string(rank))));
    }
    return static_cast<int>(seen.size()) < comm.ranks;
}

// A rank that gives up takes the folder with it.
bool has_ended(const ncclComm& comm) { return !fs::exists(comm.folder); }

fs::path message_file(const ncclComm& comm, int from, int to, int number) {
    return comm.folder /
           (std::to_string(from) + "-" + std::to_string(to) + "-" + std::to_string(number));
}

ncclResult_t send(const Message& message) {
    std::vector<char> bytes(message.bytes);
    if (cudaMemcpy(bytes.data(), message.outgoing, message.bytes, cudaMemcpyDefault) !=
        cudaSuccess) {
        return fail(ncclInvalidArgument, "the bytes to send are not in an allocation");
    }
    bytes.insert(bytes.begin(), message.call.begin(), message.call.end());
    write_file(message.file, bytes);
    return ncclSuccess;
}

cudaError_t take(const Message& message, std::vector<char> bytes) {
    if (message.is_sum) {
        std::vector<std::uint64_t> sum(bytes.size() / sizeof(std::uint64_t));
        std::vector<std::uint64_t> addend(sum.size());
        std::memcpy(addend.data(), bytes.data(), bytes.size());
        const cudaError_t status =
            cudaMemcpy(sum.data(), message.incoming, bytes.size(), cudaMemcpyDefault);
        if (status != cudaSuccess) {
            return status;
        }
        std::transform(sum.begin(), sum.end(), addend.begin(), sum.begin(), std::plus<>());
        std::memcpy(bytes.data(), sum.data(), bytes.size());
    }
    return cudaMemcpy(message.incoming, bytes.data(), bytes.size(), cudaMemcpyDefault);
}

ncclResult_t receive(const Message& message) {
    wait_until([&] { return fs::exists(message.file) || has_ended(*message.comm); });
    if (has_ended(*message.comm)) {
        return fail(ncclRemoteError, "another rank has given up");
    }
    std::vector<char> bytes = read_file(message.file);
    fs::remove(message.file);
    if (!message.call.empty()) {
        const auto end = std::find(bytes.begin(), bytes.end(), '\n');
        const std::string call(bytes.begin(), end == bytes.end() ? end : end + 1);
        if (call != message.call) {
            return fail(ncclInvalidUsage,
                        "another rank has come to " + call + "this one to " + message.call);
        }
        bytes.erase(bytes.begin(), end + 1);
    }
    if (bytes.size() != message.bytes) {
        return fail(ncclInvalidUsage, message.file.filename().string() + " has " +
                                          std::to_string(bytes.size()) + " bytes, expected are " +
                                          std::to_string(message.bytes));
    }
    return take(message, std::move(bytes)) == cudaSuccess
               ? ncclSuccess
               : fail(ncclInvalidArgument, "the bytes to receive are not in an allocation");
}

int to_itself(const std::vector<Message>& messages) {
    int sends_less_receives = 0;
    for (const Message& message : messages) {
        if (message.peer == message.comm->rank) {
            sends_less_receives += message.outgoing != nullptr ? 1 : -1;
        }
    }
    return sends_less_receives;
}

// All messages are offered before one is waited for, as on a GPU all of a group go at a time.
ncclResult_t run(const std::vector<Message>& messages) {
    if (to_itself(messages) != 0) {
        return fail(ncclInvalidUsage, "a message of a rank to itself lacks its other half");
    }
    for (const Message& message : messages) {
        const ncclResult_t result = message.outgoing != nullptr ? send(message) : ncclSuccess;
        if (result != ncclSuccess) {
            return result;
        }
    }
    for (const Message& message : messages) {
        const ncclResult_t result = message.outgoing == nullptr ? receive(message) : ncclSuccess;
        if (result != ncclSuccess) {
            return result;
        }
    }
    for (const Message& message : messages) {
        wait_until([&] { return message.outgoing == nullptr || !fs::exists(message.file); });
    }
    return ncclSuccess;
}

ncclResult_t add(const Message& message) {
    if (message.peer < 0 || message.peer >= message.comm->ranks) {
        return fail(ncclInvalidArgument, "there is no rank " + std::to_string(message.peer));
    }
    ncclGroupStart();
    group.push_back(message);
    return ncclGroupEnd();
}

// A collective: who gives what to whom, on all ranks in the same order.
struct Collective {
    const char* name;
    const void* from;
    void* to;
    std::size_t bytes;
    int root;
};

Message part_of(const Collective& collective, ncclComm_t comm, int giver, int taker) {
    const bool gives = comm->rank == giver;
    return {comm,
            gives ? collective.from : nullptr,
            gives ? nullptr : collective.to,
            collective.bytes,
            gives ? taker : giver,
            comm->folder / (std::to_string(giver) + "-" + std::to_string(taker) + "-collective-" +
                            std::to_string(comm->collectives)),
            std::string(collective.name) + " of " + std::to_string(collective.bytes) +
                " bytes, root " + std::to_string(collective.root) + "\n",
            !gives && collective.root == taker};
}

// Between the root and each of the others; what the root has already, it copies.
ncclResult_t add(const Collective& collective, ncclComm_t comm, bool is_to_root) {
    const int root = collective.root;
    if (root < 0 || root >= comm->ranks) {
        return fail(ncclInvalidArgument, "there is no root " + std::to_string(root));
    }
    if (comm->rank == root && collective.to != collective.from &&
        cudaMemcpy(collective.to, collective.from, collective.bytes, cudaMemcpyDefault) !=
            cudaSuccess) {
        return fail(ncclInvalidArgument, "the root's bytes are not in an allocation");
    }
    ncclGroupStart();
    for (int rank = 0; rank < comm->ranks; ++rank) {
        if (rank != root && (comm->rank == root || comm->rank == rank)) {
            group.push_back(is_to_root ? part_of(collective, comm, rank, root)
                                       : part_of(collective, comm, root, rank));
        }
    }
    ++comm->collectives;
    return ncclGroupEnd();
}

std::size_t size_of(ncclDataType_t type) {
    return type == ncclInt64 ? 8 : type == ncclFloat32 ? 4 : type == ncclBfloat16 ? 2 : 1;
}

}  // namespace

ncclResult_t ncclGetVersion(int* version) {
    *version = NCCL_VERSION_CODE;
    return ncclSuccess;
}

const char* ncclGetErrorString(ncclResult_t result) {
    return result == ncclSuccess           ? "no error"
           : result == ncclInvalidUsage    ? "invalid usage"
           : result == ncclInvalidArgument ? "invalid argument"
                                           : "unhandled system error";
}
const char* ncclGetLastError(ncclComm_t /*comm*/) { return last_error.c_str(); }

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
    *id = {};
    std::string name = "/dev/shm/longlora-nccl-XXXXXX";
    if (mkdtemp(name.data()) == nullptr) {
        return fail(ncclSystemError, "cannot make " + name);
    }
    name.copy(id->internal, NCCL_UNIQUE_ID_BYTES - 1);
    return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
    if (config->magic != 0xcafebeef || config->blocking != 1) {
        return fail(ncclInvalidArgument, "the configuration is not one that blocks");
    }
    *comm = new ncclComm{id.internal, ranks, rank};
    write_text((*comm)->folder / ("rank-" + std::to_string(rank)), bus_of_gpu());
    wait_for_all(**comm, "rank-");
    return share_gpu(**comm) ? fail(ncclInvalidUsage, "Duplicate GPU detected") : ncclSuccess;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
    write_text(comm->folder / ("end-" + std::to_string(comm->rank)), "");
    if (comm->rank == 0) {
        wait_for_all(*comm, "end-");
        fs::remove_all(comm->folder);
    }
    delete comm;
    return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
    std::error_code ignored;
    fs::remove_all(comm->folder, ignored);
    delete comm;
    return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* error) {
    *error = has_ended(*comm) ? fail(ncclRemoteError, "another rank has given up") : ncclSuccess;
    return ncclSuccess;
}

ncclResult_t ncclGroupStart() {
    ++group_depth;
    return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
    if (group_depth == 0) {
        return fail(ncclInvalidUsage, "no group was begun");
    }
    return --group_depth > 0 ? ncclSuccess : run(std::exchange(group, {}));
}

ncclResult_t ncclSend(const void* buffer, std::size_t count, ncclDataType_t /*type*/, int peer,
                      ncclComm_t comm, cudaStream_t stream) {
    longlora::emulator::finish_copies(stream);
    const auto file = message_file(*comm, comm->rank, peer, comm->sent[peer]++);
    return add({comm, buffer, nullptr, count, peer, file});
}

ncclResult_t ncclRecv(void* buffer, std::size_t count, ncclDataType_t /*type*/, int peer,
                      ncclComm_t comm, cudaStream_t stream) {
    longlora::emulator::finish_copies(stream);
    const auto file = message_file(*comm, peer, comm->rank, comm->received[peer]++);
    return add({comm, nullptr, buffer, count, peer, file});
}

ncclResult_t ncclReduce(const void* from, void* to, std::size_t count, ncclDataType_t type,
                        ncclRedOp_t operation, int root, ncclComm_t comm, cudaStream_t stream) {
    longlora::emulator::finish_copies(stream);
    if (type != ncclInt64 || operation != ncclSum) {
        return fail(ncclInvalidArgument, "the emulator has sums of int64 alone");
    }
    return add(Collective{"reduce", from, to, count * size_of(type), root}, comm, true);
}

ncclResult_t ncclBroadcast(const void* from, void* to, std::size_t count, ncclDataType_t type,
                           int root, ncclComm_t comm, cudaStream_t stream) {
    longlora::emulator::finish_copies(stream);
    return add(Collective{"broadcast", from, to, count * size_of(type), root}, comm, false);
}
