#pragma once

#include <cstdint>
#include <deque>
#include <string>

#include "scheduler.hpp"

namespace longlora::emulator {

// Barriers in shared memory (mbarrier): a phase ends when all arrivals have come and as many bytes have
// landed as were announced. The state is kept here; the memory holds a mark by which overwriting shows.
class TransactionBarriers {
public:
    void init(std::uint64_t* barrier, int arrivals);
    // Makes what the running thread has initialised known to others.
    void publish();
    void arrive(std::uint64_t* barrier);
    void arrive_expecting(std::uint64_t* barrier, int bytes);
    void wait(const std::uint64_t* barrier, int parity);
    // Fails unless copies may announce bytes there.
    void check(const std::uint64_t* barrier, const char* name) { find(barrier, name); }
    // May be called by an event.
    void land(const std::uint64_t* barrier, int bytes);

    void clear() { barriers_.clear(); }
    std::string describe_waiting() const;
    std::string left_at_end() const;

private:
    struct Barrier {
        const std::uint64_t* at;
        int arrivals;
        unsigned owner;
        bool is_public;
        int missing;            // arrivals of this phase
        std::int64_t expected;  // bytes that have not landed; below 0: landed before announced
        int parity;             // of the phase under way
        Waiting waiting;
    };

    Barrier& find(const std::uint64_t* barrier, const char* name);
    void arrive(Barrier& barrier);
    void end_phase_if_complete(Barrier& barrier);
    static std::string describe(const Barrier& barrier);

    std::deque<Barrier> barriers_;
};

}  // namespace longlora::emulator
