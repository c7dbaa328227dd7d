#pragma once

namespace longlora {

// SIGUSR1 (the queue's warning, through mpirun or srun) and SIGTERM ask the run to save and stop.
// From here on they only set a flag, which the ranks agree on between pieces of work.
void watch_stop_signals();
bool stop_was_requested();  // of this process

}  // namespace longlora
