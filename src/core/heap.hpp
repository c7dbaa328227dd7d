#pragma once

namespace longlora {

// Called once, before anything is allocated: what is freed stays with the process. Open MPI makes
// the plans of its collectives anew each step, and the C library would give their pages back in
// between: some 200 page faults a step and rank.
void keep_freed_memory();

}  // namespace longlora
