#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

#include "comm/halo_transport.hpp"
#include "core/cuda_check.hpp"
#include "core/transfer.hpp"

namespace longlora {
namespace {

// Pinned memory, and when the GPU has done with it.
struct Pinned {
    explicit Pinned(std::size_t size) : bytes(size) {
        cuda_check(cudaMallocHost(&memory, bytes), "allocate pinned memory");
        cuda_check(cudaEventCreateWithFlags(&copied, cudaEventDisableTiming), "make an event");
    }
    ~Pinned() {
        cudaEventDestroy(copied);
        cudaFreeHost(memory);
    }
    Pinned(const Pinned&) = delete;
    Pinned& operator=(const Pinned&) = delete;

    bool is_copied() const {
        const cudaError_t status = cudaEventQuery(copied);
        if (status != cudaErrorNotReady) {
            cuda_check(status, "copy a message");
        }
        return status == cudaSuccess;
    }

    std::size_t bytes;
    void* memory = nullptr;
    cudaEvent_t copied = nullptr;
    bool is_taken = false;
};

// Holds a piece of pinned memory for as long as a message is under way.
class Lease {
public:
    explicit Lease(Pinned& pinned) : pinned_(&pinned) { pinned.is_taken = true; }
    ~Lease() { pinned_->is_taken = false; }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    Pinned* operator->() const { return pinned_; }

private:
    Pinned* pinned_;
};

// From the GPU: given to MPI when its copy has arrived on the host.
class OutgoingMessage : public Request::Message {
public:
    OutgoingMessage(Pinned& pinned, const Communicator<Cpu>& ranks, Index bytes, int to, int tag)
        : pinned_(pinned), ranks_(ranks), bytes_(bytes), to_(to), tag_(tag) {}

    bool test() override {
        if (!is_given_) {
            if (!pinned_->is_copied()) {
                return false;
            }
            const View<Cpu, const char, 1> copy(static_cast<const char*>(pinned_->memory), bytes_);
            sending_ = ranks_.send(copy, to_, tag_);
            is_given_ = true;
        }
        return sending_.test();
    }

private:
    Lease pinned_;
    const Communicator<Cpu>& ranks_;
    Index bytes_;
    int to_;
    int tag_;
    bool is_given_ = false;
    Request sending_;
};

// To the GPU: copied when it has arrived on the host; what the GPU does next waits for that.
class IncomingMessage : public Request::Message {
public:
    IncomingMessage(Pinned& pinned, Request receiving, const CudaStream& copies,
                    const CudaStream& compute, View<Cpu, char, 1> to)
        : pinned_(pinned),
          receiving_(std::move(receiving)),
          copies_(copies),
          compute_(compute),
          to_(to) {}

    bool test() override {
        if (!receiving_.test()) {
            return false;
        }
        copy_to_device(copies_, to_.data(), pinned_->memory, static_cast<std::size_t>(to_.size()));
        cuda_check(cudaEventRecord(pinned_->copied, copies_.handle()), "mark a moment");
        compute_.wait_for(copies_);
        return true;
    }

private:
    Lease pinned_;
    Request receiving_;
    const CudaStream& copies_;
    const CudaStream& compute_;
    View<Cpu, char, 1> to_;
};

// A message is given to MPI by whoever looks at its request. Pinned memory is taken when first needed
// and kept.
class HaloStage : public HaloTransport {
public:
    Request send(const Communicator<Cpu>& ranks, const CudaStream& compute,
                 View<Cpu, const char, 1> device_bytes, int to, int tag) override {
        const auto bytes = static_cast<std::size_t>(device_bytes.size());
        Pinned& pinned = take(bytes);
        copies_.wait_for(compute);
        copy_async(copies_, pinned.memory, device_bytes.data(), bytes);
        cuda_check(cudaEventRecord(pinned.copied, copies_.handle()), "mark a moment");
        return Request(
            std::make_unique<OutgoingMessage>(pinned, ranks, device_bytes.size(), to, tag));
    }

    // The memory may still be read by earlier work: the copy waits for that.
    Request receive(const Communicator<Cpu>& ranks, const CudaStream& compute,
                    View<Cpu, char, 1> device_bytes, int from, int tag) override {
        Pinned& pinned = take(static_cast<std::size_t>(device_bytes.size()));
        copies_.wait_for(compute);
        const View<Cpu, char, 1> copy(static_cast<char*>(pinned.memory), device_bytes.size());
        return Request(std::make_unique<IncomingMessage>(pinned, ranks.receive(copy, from, tag),
                                                         copies_, compute, device_bytes));
    }

private:
    Pinned& take(std::size_t bytes) {
        const auto free =
            std::find_if(memory_.begin(), memory_.end(), [&](const std::unique_ptr<Pinned>& piece) {
                return !piece->is_taken && piece->bytes >= bytes && piece->is_copied();
            });
        return free != memory_.end() ? **free
                                     : *memory_.emplace_back(std::make_unique<Pinned>(bytes));
    }

    CudaStream copies_{CudaStream::Priority::high};
    std::vector<std::unique_ptr<Pinned>> memory_;
};

}  // namespace

std::unique_ptr<HaloTransport> make_staged_transport() { return std::make_unique<HaloStage>(); }

}  // namespace longlora
