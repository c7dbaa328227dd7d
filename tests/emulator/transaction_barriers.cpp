#include "transaction_barriers.hpp"

#include <algorithm>

#include "hopper.hpp"

namespace longlora::emulator {

namespace {

constexpr std::uint64_t mark = 0x6D62617272696572;
constexpr int most_arrivals = (1 << 20) - 1;
constexpr int most_bytes = (1 << 20) - 1;

std::string address_text(const void* shared) {
    return scheduler.shared().contains_dynamic(shared, 1)
               ? "at byte " +
                     std::to_string(static_cast<const unsigned char*>(shared) - dynamic_shared()) +
                     " of dynamic shared memory"
               : "outside of dynamic shared memory";
}

}  // namespace

void TransactionBarriers::init(std::uint64_t* barrier, int arrivals) {
    require_hopper("init_barrier");
    if (reinterpret_cast<std::uintptr_t>(barrier) % sizeof *barrier != 0 ||
        !is_shared(barrier, sizeof *barrier)) {
        fail("init_barrier where shared memory is not, or not aligned to 8 bytes");
    }
    if (arrivals < 1 || arrivals > most_arrivals) {
        fail("init_barrier for " + std::to_string(arrivals) + " arrivals");
    }
    for (const Barrier& other : barriers_) {
        if (other.at == barrier) {
            fail("init_barrier of a barrier that is in use, " + address_text(barrier));
        }
    }
    *barrier = mark;
    barriers_.push_back({barrier, arrivals, scheduler.thread(), false, arrivals, 0, 0, {}});
}

void TransactionBarriers::publish() {
    for (Barrier& barrier : barriers_) {
        barrier.is_public |= barrier.owner == scheduler.thread();
    }
}

TransactionBarriers::Barrier& TransactionBarriers::find(const std::uint64_t* barrier,
                                                        const char* name) {
    const auto found = std::find_if(barriers_.begin(), barriers_.end(),
                                    [barrier](const Barrier& b) { return b.at == barrier; });
    if (found == barriers_.end()) {
        fail(std::string(name) + " of a barrier that was not initialised, " +
             address_text(barrier));
    }
    if (*barrier != mark) {
        fail(std::string(name) + " of a barrier that was overwritten, " + address_text(barrier));
    }
    if (!found->is_public) {
        fail(std::string(name) + " of a barrier before publish_barriers, " + address_text(barrier));
    }
    return *found;
}

void TransactionBarriers::arrive(std::uint64_t* barrier) { arrive(find(barrier, "arrive")); }

void TransactionBarriers::arrive_expecting(std::uint64_t* barrier, int bytes) {
    Barrier& found = find(barrier, "arrive_expecting");
    if (bytes < 0 || bytes > most_bytes) {
        fail("arrive_expecting of " + std::to_string(bytes) + " bytes");
    }
    found.expected += bytes;
    arrive(found);
}

void TransactionBarriers::arrive(Barrier& barrier) {
    --barrier.missing;
    end_phase_if_complete(barrier);
}

void TransactionBarriers::land(const std::uint64_t* barrier, int bytes) {
    Barrier& found = find(barrier, "a copy's end");
    found.expected -= bytes;
    end_phase_if_complete(found);
}

void TransactionBarriers::end_phase_if_complete(Barrier& barrier) {
    if (barrier.missing < 0) {
        fail("more arrivals than a phase has while bytes are missing, barrier " +
             address_text(barrier.at));
    }
    if (barrier.missing == 0 && barrier.expected == 0) {
        barrier.missing = barrier.arrivals;
        barrier.parity ^= 1;
        scheduler.release(barrier.waiting);
    }
}

void TransactionBarriers::wait(const std::uint64_t* barrier, int parity) {
    if (parity != 0 && parity != 1) {
        fail("wait for a phase of parity " + std::to_string(parity));
    }
    Barrier& found = find(barrier, "wait");
    // A phase that ends may be followed by a whole other one before this thread goes on: hardware that
    // looks now and then could miss the first of them just as well.
    while (found.parity == parity) {
        scheduler.wait_in(found.waiting, "wait of a barrier in memory");
    }
}

std::string TransactionBarriers::describe(const Barrier& barrier) {
    return "the barrier " + address_text(barrier.at) + ", in a phase of parity " +
           std::to_string(barrier.parity) + ", lacks " + std::to_string(barrier.missing) + " of " +
           std::to_string(barrier.arrivals) + " arrivals and " + std::to_string(barrier.expected) +
           " bytes";
}

std::string TransactionBarriers::describe_waiting() const {
    std::string text;
    for (const Barrier& barrier : barriers_) {
        if (!barrier.waiting.empty()) {
            text += "; " + describe(barrier) + " for the " +
                    std::to_string(barrier.waiting.size()) + " threads waiting there";
        }
    }
    return text;
}

std::string TransactionBarriers::left_at_end() const {
    for (const Barrier& barrier : barriers_) {
        if (barrier.expected != 0) {
            return "with copies under way: " + describe(barrier);
        }
    }
    return "";
}

}  // namespace longlora::emulator
