#include <cstddef>

#include "comm/cuda/nccl.hpp"
#include "comm/cuda/nccl/batch.hpp"

namespace longlora {
namespace {

// One call of NCCL's for each rank's piece, as pieces differ in length; all of them are one group. They
// run on the stream of the caller, which has nothing else to do meanwhile.
class NcclCollectives : public DeviceCollectives {
public:
    NcclCollectives() = default;
    explicit NcclCollectives(const Communicator<Cpu>& ranks) : ranks_(ranks) {}

    // To each piece's owner, in place. Sums of integers are the same in any order.
    void reduce_scatter_sum(const Communicator<Cpu>&, const CudaStream& compute,
                            View<Cpu, std::int64_t, 1> device_values,
                            const std::vector<Range>& pieces) override {
        for_each_piece(
            device_values, pieces, [&](std::int64_t* piece, std::size_t size, int owner) {
                batch_.add([=](ncclComm_t comm, cudaStream_t stream) {
                    return ncclReduce(piece, piece, size, ncclInt64, ncclSum, owner, comm, stream);
                });
            });
        run(compute);
    }

    void all_gather(const Communicator<Cpu>&, const CudaStream& compute,
                    View<Cpu, char, 1> device_bytes, const std::vector<Range>& pieces) override {
        for_each_piece(device_bytes, pieces, [&](char* piece, std::size_t size, int owner) {
            batch_.add([=](ncclComm_t comm, cudaStream_t stream) {
                return ncclBroadcast(piece, piece, size, ncclChar, owner, comm, stream);
            });
        });
        run(compute);
    }

private:
    // Under way on the GPU, which knows neither time nor errors: the host looks at it until it is done.
    class Message : public Request::Message {
    public:
        explicit Message(NcclCollectives& collectives) : collectives_(collectives) {}

        bool test() override {
            collectives_.ranks_.check_messages();
            return collectives_.batch_.is_done();
        }
        void abandon() noexcept override { collectives_.ranks_.abort(); }

    private:
        NcclCollectives& collectives_;
    };

    template <class T, class Work>
    static void for_each_piece(View<Cpu, T, 1> values, const std::vector<Range>& pieces,
                               const Work& work) {
        for (std::size_t owner = 0; owner < pieces.size(); ++owner) {
            const View<Cpu, T, 1> piece = values.slice(pieces[owner]);
            if (piece.size() > 0) {
                work(piece.data(), static_cast<std::size_t>(piece.size()), static_cast<int>(owner));
            }
        }
    }

    // The time that others may take begins when this rank has nothing else to do.
    void run(const CudaStream& compute) {
        compute.synchronize();
        batch_.start(ranks_, compute);
        Request(std::make_unique<Message>(*this)).wait();
    }

    NcclRanks ranks_;
    NcclBatch batch_;
};

}  // namespace

std::unique_ptr<DeviceCollectives> make_nccl_collectives(const Communicator<Cpu>& ranks) {
    return std::make_unique<NcclCollectives>(ranks);
}

std::unique_ptr<DeviceCollectives> make_nccl_lone_collectives() {
    return std::make_unique<NcclCollectives>();
}

}  // namespace longlora
