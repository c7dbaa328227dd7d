#include "comm/environment.hpp"

#include <unistd.h>

#include <array>
#include <cstdlib>

#include <mpi.h>

namespace longlora {

Environment::Environment() {
    int provided = 0;
    // Only the main thread calls MPI; OpenMP threads never do.
    MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided);
}

Environment::~Environment() { MPI_Finalize(); }

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

void abort_all(int code) {
    MPI_Abort(MPI_COMM_WORLD, code);
    std::abort();  // not reached: MPI_Abort does not return
}

}  // namespace longlora
