#include "comm/watchdog.hpp"

#include <unistd.h>

#include <algorithm>
#include <chrono>

#include "comm/communicator.hpp"
#include "comm/environment.hpp"
#include "comm/shared_progress.hpp"
#include "core/error.hpp"
#include "core/terminal.hpp"

namespace longlora {

// The message begins here: MPI and the progress point belong to the main thread.
Watchdog::Watchdog()
    : thread_([this, seconds = communication_timeout(), message = rank_name() + timeout_message()] {
          watch(seconds, message);
      }) {}

Watchdog::~Watchdog() {
    {
        const std::lock_guard lock(mutex_);
        has_ended_ = true;
    }
    ended_.notify_one();
    thread_.join();
}

void Watchdog::watch(double seconds, const std::string& message) {
    std::unique_lock lock(mutex_);
    const std::chrono::duration<double> limit(
        std::min(seconds, 1e9));  // steady_clock counts in int64
    if (!ended_.wait_for(lock, limit, [this] { return has_ended_; })) {
        complain(message + who_keeps_us_waiting());
        // Not MPI_Abort: the main thread is inside MPI. Not exit: destructors would wait as well.
        _exit(static_cast<int>(ExitCode::failure));
    }
}

}  // namespace longlora
