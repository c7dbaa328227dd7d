#include "register_counts.hpp"

#include <algorithm>
#include <numeric>

#include "scheduler.hpp"
#include "warp_functions.h"

namespace longlora::emulator {

namespace {

constexpr int all = 65536;  // of a multiprocessor
constexpr int step = 8;
constexpr int least = 24;
constexpr int most = 256;
constexpr std::size_t warps_of_group = 4;

}  // namespace

// What __launch_bounds__(threads, 1) lets the compiler use.
void RegisterCounts::prepare_block(std::size_t threads) {
    at_start_ = std::min(most, all / static_cast<int>(threads) / step * step);
    of_warp_.assign((threads + warp_lanes - 1) / warp_lanes, at_start_);
    has_changed_ = false;
}

void RegisterCounts::set(int registers, bool takes) {
    const char* const name = takes ? "take_registers" : "keep_registers";
    if (registers < least || registers > most || registers % step != 0) {
        fail(std::string(name) + " of " + std::to_string(registers));
    }
    meet_whole_warp(name, nullptr, meet);
    int& mine = of_warp_[scheduler.thread() / Scheduler::lanes];
    if (takes ? registers < mine : registers > mine) {
        fail(std::string(name) + " of " + std::to_string(registers) + " by a warp that has " +
             std::to_string(mine));
    }
    mine = registers;
    has_changed_ = true;
}

std::string RegisterCounts::left_at_end() const {
    if (!has_changed_) {
        return "";
    }
    for (std::size_t warp = 0; warp < of_warp_.size(); ++warp) {
        if (of_warp_[warp] != of_warp_[warp / warps_of_group * warps_of_group]) {
            return "with warps of different registers in the warpgroup of warp " +
                   std::to_string(warp);
        }
    }
    const int sum = warp_lanes * std::accumulate(of_warp_.begin(), of_warp_.end(), 0);
    return sum <= all ? "" : "with " + std::to_string(sum) + " registers, more than there are";
}

}  // namespace longlora::emulator
