#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "copies_under_way.hpp"
#include "named_barriers.hpp"
#include "register_counts.hpp"
#include "shared_writes.hpp"
#include "transaction_barriers.hpp"
#include "warpgroup.hpp"

namespace longlora::emulator {

// What a multiprocessor of compute capability 9.0 has for the block that is running.
class Hopper {
public:
    void prepare_block(std::size_t threads);
    // What must not be under way when all threads have ended: "with ..."; nothing: empty.
    std::string left_at_end() const;
    // Barriers in memory at which threads wait, for a message.
    std::string open_barriers() const { return barriers.describe_waiting(); }

    TransactionBarriers barriers;
    NamedBarriers named_barriers;
    CopiesUnderWay copies;
    SharedWrites writes;
    RegisterCounts registers;
    std::vector<Warpgroup> warpgroups;  // none before the first is used
};

extern Hopper hopper;

// Fails on a device of a lower compute capability.
void require_hopper(const char* name);

}  // namespace longlora::emulator
