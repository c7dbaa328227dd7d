#pragma once

#include <string>

#include <hdf5.h>

#include "core/error.hpp"
#include "io/hdf5.hpp"

// Private to src/io/hdf5*.cpp.
namespace longlora {

// The innermost entry of HDF5's error stack: the cause, not its consequences.
std::string hdf5_reason();

hid_t hdf5_memory_type(Hdf5Type type);
Hdf5Handle hdf5_text_type(std::size_t size);

// Checks an identifier, status or count that an HDF5 function returned (negative: failed).
template <class Returned>
Returned hdf5_check(Returned returned, const std::string& what, ExitCode code) {
    if (returned < 0) {
        throw Error(what + ": " + hdf5_reason(), code);
    }
    return returned;
}

}  // namespace longlora
