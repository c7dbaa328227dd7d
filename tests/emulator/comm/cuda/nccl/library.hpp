#pragma once

// src/comm/cuda/nccl/library.hpp in its place: the emulator's NCCL is in the program.
#include <nccl.h>

namespace longlora {

inline bool has_nccl_library() { return true; }

}  // namespace longlora
