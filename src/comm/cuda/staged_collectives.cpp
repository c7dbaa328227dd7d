#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <functional>

#include "comm/device_collectives.hpp"
#include "core/cuda_check.hpp"
#include "core/pinned_memory.hpp"
#include "core/transfer.hpp"

namespace longlora {
namespace {

// Pinned memory, and when the GPU has filled it.
class Part {
public:
    explicit Part(Index bytes)
        : memory_(static_cast<std::size_t>(bytes), "sums and gathers over ranks") {
        cuda_check(cudaEventCreateWithFlags(&filled_, cudaEventDisableTiming), "make an event");
    }
    ~Part() { cudaEventDestroy(filled_); }
    Part(const Part&) = delete;
    Part& operator=(const Part&) = delete;

    template <class T>
    View<Cpu, T, 1> view(Index size) const {
        return {static_cast<T*>(memory_.data()), size};
    }
    void mark_filled(const CudaStream& copies) const {
        cuda_check(cudaEventRecord(filled_, copies.handle()), "mark a moment");
    }
    void wait_until_filled() const { cuda_check(cudaEventSynchronize(filled_), "copy a part"); }

private:
    PinnedMemory memory_;
    cudaEvent_t filled_ = nullptr;
};

// A round takes a share of each rank's piece, so that all ranks have something to do in each.
struct Round {
    std::vector<Range> on_device;
    std::vector<Range> on_host;  // one after another
};

Round round_of(const std::vector<Range>& pieces, Index begin, Index share) {
    Round round;
    Index place = 0;
    for (const Range& piece : pieces) {
        const Range on_device{std::min(piece.end, piece.begin + begin),
                              std::min(piece.end, piece.begin + begin + share)};
        round.on_device.push_back(on_device);
        round.on_host.push_back({place, place + on_device.size()});
        place += on_device.size();
    }
    return round;
}

template <class T>
void copy(const CudaStream& stream, View<Cpu, T, 1> to, View<Cpu, T, 1> from) {
    if (from.size() > 0) {
        copy_async(stream, to.data(), from.data(),
                   sizeof(T) * static_cast<std::size_t>(from.size()));
    }
}

// While MPI has one part, the GPU fills the other. All copies are in the order of one stream, so a part
// is filled again when it has been emptied.
class StagedCollectives : public DeviceCollectives {
public:
    StagedCollectives(Index ranks, Index part_bytes)
        : share_bytes_(std::max<Index>(part_bytes / ranks / unit, 1) * unit),
          parts_{Part(share_bytes_ * ranks), Part(share_bytes_ * ranks)} {}

    void reduce_scatter_sum(const Communicator<Cpu>& ranks, const CudaStream& compute,
                            View<Cpu, std::int64_t, 1> device_values,
                            const std::vector<Range>& pieces) override {
        const int own = ranks.rank();
        pass<std::int64_t>(
            compute, device_values, pieces,
            {.is_given = [](int) { return true; },
             .is_taken = [own](int rank) { return rank == own; },
             .exchange = [&](auto values,
                             const auto& places) { ranks.reduce_scatter_sum(values, places); }});
    }

    void all_gather(const Communicator<Cpu>& ranks, const CudaStream& compute,
                    View<Cpu, char, 1> device_bytes, const std::vector<Range>& pieces) override {
        const int own = ranks.rank();
        pass<char>(compute, device_bytes, pieces,
                   {.is_given = [own](int rank) { return rank == own; },
                    .is_taken = [own](int rank) { return rank != own; },
                    .exchange = [&](auto values,
                                    const auto& places) { ranks.all_gather(values, places); }});
    }

private:
    static constexpr Index unit = 64;  // bytes

    // Which ranks' pieces go from the GPU to the host and come back, and what is done there.
    template <class T>
    struct Passage {
        std::function<bool(int)> is_given;
        std::function<bool(int)> is_taken;
        std::function<void(View<Cpu, T, 1>, const std::vector<Range>&)> exchange;
    };

    template <class T>
    void pass(const CudaStream& compute, View<Cpu, T, 1> values, const std::vector<Range>& pieces,
              const Passage<T>& passage) {
        const Index share = share_bytes_ / Index{sizeof(T)};
        Index longest = 0;
        for (const Range& piece : pieces) {
            longest = std::max(longest, piece.size());
        }
        copies_.wait_for(compute);
        fill(parts_[0], values, round_of(pieces, 0, share), passage);
        for (Index begin = 0; begin < longest; begin += share) {
            const Round round = round_of(pieces, begin, share);
            const Part& part = parts_[begin / share % 2];
            fill(parts_[(begin / share + 1) % 2], values, round_of(pieces, begin + share, share),
                 passage);
            part.wait_until_filled();
            passage.exchange(part.view<T>(round.on_host.back().end), round.on_host);
            empty(part, values, round, passage);
        }
        compute.wait_for(copies_);
    }

    template <class T>
    void fill(const Part& part, View<Cpu, T, 1> values, const Round& round,
              const Passage<T>& passage) const {
        const View<Cpu, T, 1> host = part.view<T>(round.on_host.back().end);
        for (std::size_t r = 0; r < round.on_host.size(); ++r) {
            if (passage.is_given(static_cast<int>(r))) {
                copy(copies_, host.slice(round.on_host[r]), values.slice(round.on_device[r]));
            }
        }
        part.mark_filled(copies_);
    }

    template <class T>
    void empty(const Part& part, View<Cpu, T, 1> values, const Round& round,
               const Passage<T>& passage) const {
        const View<Cpu, T, 1> host = part.view<T>(round.on_host.back().end);
        for (std::size_t r = 0; r < round.on_host.size(); ++r) {
            if (passage.is_taken(static_cast<int>(r))) {
                copy(copies_, values.slice(round.on_device[r]), host.slice(round.on_host[r]));
            }
        }
    }

    CudaStream copies_{CudaStream::Priority::high};
    Index share_bytes_;
    std::array<Part, 2> parts_;
};

}  // namespace

std::unique_ptr<DeviceCollectives> make_staged_collectives(const Communicator<Cpu>& ranks,
                                                           Index part_bytes) {
    return std::make_unique<StagedCollectives>(ranks.size(), part_bytes);
}

}  // namespace longlora
