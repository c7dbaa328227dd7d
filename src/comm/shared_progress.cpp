#include "comm/shared_progress.hpp"

#include <unistd.h>

#include <fstream>
#include <mutex>
#include <new>
#include <vector>

#include <mpi.h>

#include "comm/environment.hpp"
#include "core/progress_point.hpp"
#include "core/text.hpp"

namespace longlora {
namespace {

// In shared memory. Others read while its owner writes: a message may be torn, no more.
struct Place {
    int rank = 0;
    pid_t process = 0;
    ProgressPoint point;
};

struct Shared {
    std::mutex mutex;  // a watchdog may ask while the memory is given back
    MPI_Win window = MPI_WIN_NULL;
    Place* own = nullptr;
    std::vector<const Place*> others;
};

Shared& shared() {
    static Shared all;
    return all;
}

MPI_Comm ranks_of_host() {
    MPI_Comm host = MPI_COMM_NULL;
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, world_rank(), MPI_INFO_NULL, &host);
    MPI_Comm_set_errhandler(host, MPI_ERRORS_RETURN);  // without such memory a run can do
    return host;
}

std::vector<const Place*> places_of_others(MPI_Win window, MPI_Comm host) {
    int size = 0;
    int rank = 0;
    MPI_Comm_size(host, &size);
    MPI_Comm_rank(host, &rank);
    std::vector<const Place*> others;
    for (int other = 0; other < size; ++other) {
        MPI_Aint bytes = 0;
        int unit = 0;
        const Place* place = nullptr;
        MPI_Win_shared_query(window, other, &bytes, &unit, static_cast<void*>(&place));
        if (other != rank) {
            others.push_back(place);
        }
    }
    return others;
}

// What the system says of a process that cannot work; "" of one that can.
std::string trouble(pid_t process) {
    std::ifstream file("/proc/" + std::to_string(process) + "/stat");
    std::string stat;
    std::getline(file, stat);
    const auto end = stat.rfind(") ");  // of its name, which may hold anything
    switch (end == std::string::npos ? ' ' : stat[end + 2]) {
        case 'T':
            return " (stopped)";
        case 'D':
            return " (waiting for a disk)";
        case 'Z':
            return " (dead)";
        default:
            return "";
    }
}

}  // namespace

SharedProgress::SharedProgress() {
    MPI_Comm host = ranks_of_host();
    Shared& all = shared();
    void* memory = nullptr;
    if (MPI_Win_allocate_shared(sizeof(Place), 1, MPI_INFO_NULL, host, static_cast<void*>(&memory),
                                &all.window) == MPI_SUCCESS) {
        all.own = new (memory) Place{world_rank(), getpid(), progress_point()};
        set_progress_point(&all.own->point);
        MPI_Barrier(host);
        all.others = places_of_others(all.window, host);
    }
    MPI_Comm_free(&host);
}

SharedProgress::~SharedProgress() {
    Shared& all = shared();
    const std::lock_guard lock(all.mutex);
    all.others.clear();
    set_progress_point(nullptr);
    if (all.window != MPI_WIN_NULL) {
        MPI_Win_free(&all.window);
    }
}

std::string who_keeps_us_waiting() {
    Shared& all = shared();
    const std::lock_guard lock(all.mutex);
    std::vector<std::string> busy;
    for (const Place* other : all.others) {
        if (!other->point.is_waiting) {
            busy.push_back("rank " + std::to_string(other->rank) + ", process " +
                           std::to_string(other->process) + trouble(other->process) + ", in " +
                           other->point.text());
        }
    }
    return busy.empty() ? "a rank, of another host perhaps, has died or hangs"
                        : "on this host " + join(busy, " and ") +
                              (busy.size() == 1 ? " does" : " do") + " not wait, and may hang";
}

}  // namespace longlora
