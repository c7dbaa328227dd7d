#include "comm/environment.hpp"

#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdlib>

#include <mpi.h>

#include "comm/watchdog.hpp"
#include "core/fault_point.hpp"

namespace longlora {

Environment::Environment() {
    // A write beyond the limit on file sizes fails and says so; the signal would just end the process.
    std::signal(SIGXFSZ, SIG_IGN);
    int provided = 0;
    // Only the main thread calls MPI; OpenMP threads never do.
    MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided);
    fault_point("mpi_up");
    progress_.emplace();
}

Environment::~Environment() {
    fault_point("end");
    {
        const Watchdog watchdog;
        MPI_Barrier(MPI_COMM_WORLD);  // while it can still be told who does not come
        progress_.reset();
        MPI_Finalize();
    }
    fault_point("mpi_down");
}

int world_rank() {
    int rank = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    return rank;
}

int world_size() {
    int size = 1;
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    return size;
}

std::string host_name() {
    std::array<char, 256> name{};
    gethostname(name.data(), name.size() - 1);
    return name.data();
}

std::string rank_name() {
    return "rank " + std::to_string(world_rank()) + " on host " + host_name() + ": ";
}

void abort_all(int code) {
    MPI_Abort(MPI_COMM_WORLD, code);
    std::abort();  // not reached: MPI_Abort does not return
}

}  // namespace longlora
