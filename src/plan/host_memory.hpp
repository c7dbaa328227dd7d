#pragma once

#include <string>

namespace longlora {

// Bytes that the system says may still be taken, or, where that is less, a cgroup of this process: there
// Slurm and containers set their limits.
double available_host_memory();

// What the cgroups named in a file like /proc/self/cgroup leave, of version 2 (memory.max) or 1
// (memory.limit_in_bytes), and those above them; `mount` is where cgroups are mounted. Infinity without limit.
// What the system has cached of files counts as free.
double room_in_cgroups(const std::string& own_cgroups, const std::string& mount);

}  // namespace longlora
