#pragma once

namespace longlora {

// A named place where a test may hurt the program (tests/faults). Only in builds with LONGLORA_FAULTS,
// which come with the tests; in others it is nothing.
//
//   LONGLORA_FAULT=<name>:<n>[:<rank>[:stop]]   at the n-th passing of `name`, on that rank or, without
//                                               one, on each: SIGKILL, or with `stop` SIGSTOP
//   LONGLORA_FAULT_COUNTS=<path>                at the end each rank writes to <path>.<rank> how often
//                                               it has passed which
//
// Besides those in the code: each phase as it begins, by its name in log.h5 (core/phase_timer.hpp),
// and checkpoint_write and log_write, in the midst of a write to disk: half of its pages are
// done.
#if LONGLORA_FAULTS
void fault_point(const char* name);
#else
inline void fault_point(const char*) {}
#endif

}  // namespace longlora
