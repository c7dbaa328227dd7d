#include "io/hdf5_together.hpp"

#include <chrono>
#include <thread>

#include <mpi.h>

#include "comm/communicator.hpp"
#include "comm/watchdog.hpp"

namespace longlora {
namespace {

// True when the request ended within two seconds.
bool ends_soon(MPI_Request& request) {
    using Clock = std::chrono::steady_clock;
    const auto limit = Clock::now() + std::chrono::seconds(2);
    int is_done = 0;
    while (is_done == 0 && Clock::now() < limit) {
        MPI_Test(&request, &is_done, MPI_STATUS_IGNORE);
        std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
    return is_done != 0;
}

// Whether all ranks have left a collective body; a rank without an error waits for that.
bool have_all_come(bool is_failed) {
    const Watchdog watchdog;
    MPI_Request request = MPI_REQUEST_NULL;
    MPI_Ibarrier(MPI_COMM_WORLD, &request);
    if (is_failed) {
        return ends_soon(request);
    }
    while (!ends_soon(request)) {
    }
    return true;
}

}  // namespace

void throw_together(const std::optional<Error>& mine, SharedWork kind) {
    if (kind == SharedWork::collective && !have_all_come(mine.has_value())) {
        throw Error(*mine);
    }
    const auto world = Communicator<Cpu>::world();
    const auto first = world.min<std::int64_t>(mine ? world.rank() : world.size());
    if (first == world.size()) {
        return;
    }
    const auto teller = static_cast<int>(first);
    const std::string message = world.broadcast_text(mine ? mine->what() : "", teller);
    std::int64_t code = mine ? static_cast<std::int64_t>(mine->code()) : 0;
    world.broadcast(View<Cpu, std::int64_t, 1>(&code, 1), teller);
    throw Error::of_all_ranks(message, static_cast<ExitCode>(code));
}

}  // namespace longlora
