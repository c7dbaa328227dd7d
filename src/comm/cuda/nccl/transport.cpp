#include <cstddef>
#include <utility>
#include <vector>

#include "comm/cuda/nccl.hpp"
#include "comm/cuda/nccl/batch.hpp"

namespace longlora {
namespace {

// What is posted between two calls of start() is one batch. Ranks go through the same phases, all post
// what they have in a phase before they look at any of it, and a pair's messages of a phase are in the
// same order on both sides (model/context_exchange.hpp): so the n-th send to a peer meets its n-th
// receive, and no batch needs one that comes after it, on any rank.
class NcclTransport : public HaloTransport {
public:
    NcclTransport() = default;
    explicit NcclTransport(const Communicator<Cpu>& ranks) : ranks_(ranks) {}

    Request send(const Communicator<Cpu>&, const CudaStream& compute,
                 View<Cpu, const char, 1> device_bytes, int to, int /*tag*/) override {
        const auto batch = open_after(compute);
        batch->add([=](ncclComm_t comm, cudaStream_t stream) {
            return ncclSend(device_bytes.data(), static_cast<std::size_t>(device_bytes.size()),
                            ncclChar, to, comm, stream);
        });
        return Request(std::make_unique<Message>(*this, batch, compute));
    }
    // The memory may still be read by earlier work: the batch comes after that.
    Request receive(const Communicator<Cpu>&, const CudaStream& compute,
                    View<Cpu, char, 1> device_bytes, int from, int /*tag*/) override {
        const auto batch = open_after(compute);
        batch->add([=](ncclComm_t comm, cudaStream_t stream) {
            return ncclRecv(device_bytes.data(), static_cast<std::size_t>(device_bytes.size()),
                            ncclChar, from, comm, stream);
        });
        return Request(std::make_unique<Message>(*this, batch, compute));
    }

    void start() override {
        if (!open_) {
            return;
        }
        std::exchange(open_, nullptr)->start(ranks_, halo_);
    }

private:
    // The host looks at a message until it is there, as a GPU that waits knows neither time nor errors.
    // By then it has been given all work that needs no message, so it does not run dry.
    class Message : public Request::Message {
    public:
        Message(NcclTransport& transport, std::shared_ptr<NcclBatch> batch,
                const CudaStream& compute)
            : transport_(transport), batch_(std::move(batch)), compute_(compute) {}

        bool test() override {
            if (transport_.open_ == batch_) {
                transport_.start();
            }
            transport_.ranks_.check_messages();
            if (!batch_->is_done()) {
                return false;
            }
            batch_->before(compute_);
            return true;
        }
        void abandon() noexcept override { transport_.ranks_.abort(); }

    private:
        NcclTransport& transport_;
        std::shared_ptr<NcclBatch> batch_;
        const CudaStream& compute_;
    };

    // The batch that is being collected. Its messages come after what `compute` has been given so far,
    // not after what it is given until the start.
    std::shared_ptr<NcclBatch> open_after(const CudaStream& compute) {
        halo_.wait_for(compute);
        if (!open_) {
            open_ = unused();
        }
        return open_;
    }

    std::shared_ptr<NcclBatch> unused() {
        for (const auto& batch : batches_) {
            if (batch.use_count() == 1) {
                return batch;
            }
        }
        return batches_.emplace_back(std::make_shared<NcclBatch>());
    }

    CudaStream halo_{CudaStream::Priority::high};
    NcclRanks ranks_;
    std::vector<std::shared_ptr<NcclBatch>> batches_;  // some are held by messages under way
    std::shared_ptr<NcclBatch> open_;                  // or null: nothing is posted
};

}  // namespace

std::string nccl_version() {
    if (!has_nccl_library()) {
        return "";
    }
    int version = 0;  // 10000 major + 100 minor + patch
    nccl_check(ncclGetVersion(&version), "tell its version");
    return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
           std::to_string(version % 100);
}

std::unique_ptr<HaloTransport> make_nccl_transport(const Communicator<Cpu>& ranks) {
    return std::make_unique<NcclTransport>(ranks);
}

std::unique_ptr<HaloTransport> make_nccl_loop() { return std::make_unique<NcclTransport>(); }

}  // namespace longlora
