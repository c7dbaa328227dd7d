#include "train/stop_signal.hpp"

#include <csignal>

namespace longlora {
namespace {

volatile std::sig_atomic_t is_requested = 0;

void note_request(int) { is_requested = 1; }

}  // namespace

void watch_stop_signals() {
    struct sigaction action {};
    action.sa_handler = note_request;
    action.sa_flags = SA_RESTART;
    sigaction(SIGUSR1, &action, nullptr);
    sigaction(SIGTERM, &action, nullptr);
}

bool stop_was_requested() { return is_requested != 0; }

}  // namespace longlora
