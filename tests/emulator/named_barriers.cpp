#include "named_barriers.hpp"

#include <algorithm>
#include <string>

namespace longlora::emulator {

NamedBarriers::Barrier& NamedBarriers::find(int number, const char* name, int threads) {
    if (number < 1 || number >= static_cast<int>(barriers_.size())) {
        fail(std::string(name) + " at barrier " + std::to_string(number) + ", not 1 to 15");
    }
    if (threads < warp_lanes || threads % warp_lanes != 0 ||
        threads > static_cast<int>(scheduler.threads())) {
        fail(std::string(name) + " for " + std::to_string(threads) +
             " threads: not whole warps of the block");
    }
    return barriers_[static_cast<std::size_t>(number)];
}

bool NamedBarriers::add(Barrier& barrier, const char* name, int threads) {
    const unsigned mine = scheduler.thread();
    if (barrier.threads != 0 && barrier.threads != threads) {
        fail(std::string(name) + " for " + std::to_string(threads) +
             " threads at a barrier where others have said " + std::to_string(barrier.threads));
    }
    if (std::find(barrier.arrived.begin(), barrier.arrived.end(), mine) != barrier.arrived.end()) {
        fail(std::string(name) + " a second time before the barrier has opened");
    }
    barrier.threads = threads;
    barrier.arrived.push_back(mine);
    if (barrier.arrived.size() < static_cast<std::size_t>(threads)) {
        return false;
    }
    barrier.threads = 0;
    barrier.arrived.clear();
    scheduler.release(barrier.waiting);
    return true;
}

void NamedBarriers::sync(int number, int threads) {
    Barrier& barrier = find(number, "sync_threads", threads);
    if (add(barrier, "sync_threads", threads)) {
        scheduler.let_others_go_first("sync_threads");
    } else {
        scheduler.wait_in(barrier.waiting, "sync_threads");
    }
}

void NamedBarriers::arrive(int number, int threads) {
    add(find(number, "arrive_threads", threads), "arrive_threads", threads);
}

}  // namespace longlora::emulator
