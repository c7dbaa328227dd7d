#pragma once

#include "vector_types.h"

// Of the thread that is running, set by the emulator at each change.
extern uint3 threadIdx;
extern uint3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;
constexpr int warpSize = 32;
