#pragma once

// kernels/cuda/cublas_library.hpp in its place: the emulator's products are in the program.
#include <cublasLt.h>
