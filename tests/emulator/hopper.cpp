#include "hopper.hpp"

#include <algorithm>

#include "runtime.hpp"
#include "scheduler.hpp"

namespace longlora::emulator {

Hopper hopper;

void Hopper::prepare_block(std::size_t threads) {
    barriers.clear();
    named_barriers.clear();
    copies.clear();
    writes.prepare_block(threads);
    registers.prepare_block(threads);
    warpgroups.clear();
}

std::string Hopper::left_at_end() const {
    const bool is_idle = std::all_of(warpgroups.begin(), warpgroups.end(),
                                     [](const Warpgroup& group) { return group.is_idle(); });
    if (!is_idle) {
        return "with products that no thread has waited for";
    }
    const std::string phases = barriers.left_at_end();
    return phases.empty() ? registers.left_at_end() : phases;
}

void require_hopper(const char* name) {
    if (capability().major < 9) {
        fail(std::string(name) + " on a device of compute capability " +
             std::to_string(capability().major) + "." + std::to_string(capability().minor));
    }
}

}  // namespace longlora::emulator
