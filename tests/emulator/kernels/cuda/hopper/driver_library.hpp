#pragma once

// kernels/cuda/hopper/driver_library.hpp in its place: the emulator's tensor maps are in the program.
#include <cuda.h>
