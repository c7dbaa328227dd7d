#pragma once

#include <cuda.h>

#include "core/late_library.hpp"

// The driver, which no program links: it is there where there is a GPU. Within namespace longlora the name
// below stands for its function of the same name. tests/emulator has a file in the place of this one.
namespace longlora {

inline LateLibrary& driver_library() {
    static LateLibrary library("libcuda", {"libcuda.so.1"});
    return library;
}

inline LateFunction<decltype(::cuTensorMapEncodeTiled), driver_library> cuTensorMapEncodeTiled(
    "cuTensorMapEncodeTiled");

}  // namespace longlora
