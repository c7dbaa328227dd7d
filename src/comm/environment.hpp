#pragma once

#include <optional>
#include <string>

#include "comm/shared_progress.hpp"

namespace longlora {

// MPI is up while it lives; the only caller of MPI_Init_thread and MPI_Finalize.
class Environment {
public:
    Environment();
    ~Environment();
    Environment(const Environment&) = delete;
    Environment& operator=(const Environment&) = delete;

private:
    std::optional<SharedProgress> progress_;
};

int world_rank();
int world_size();
std::string host_name();
std::string rank_name();  // "rank 3 on host n1: ", before what it says

// Ends every rank at once with `code`; for an error that only this rank has seen.
[[noreturn]] void abort_all(int code);

}  // namespace longlora
