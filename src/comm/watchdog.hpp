#pragma once

#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

namespace longlora {

// For calls that wait for other ranks inside a library (parallel HDF5, MPI_Comm_split), where no
// poll can look at the clock. If one lives longer than comm.timeout, its thread says where this rank
// is and ends the process, upon which the launcher ends the others.
class Watchdog {
public:
    Watchdog();
    ~Watchdog();
    Watchdog(const Watchdog&) = delete;
    Watchdog& operator=(const Watchdog&) = delete;

private:
    void watch(double seconds, const std::string& message);

    std::mutex mutex_;
    std::condition_variable ended_;
    bool has_ended_ = false;
    std::thread thread_;
};

}  // namespace longlora
