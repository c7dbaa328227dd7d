#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "core/view.hpp"

namespace longlora {

constexpr std::string_view npy_magic = "\x93NUMPY";

// Where the int32 elements of a one-dimensional .npy file lie.
struct NpyHeader {
    std::size_t offset = 0;  // bytes
    Index size = 0;          // elements
};

// `bytes` is the whole file, versions 1.0 to 3.0; anything but a complete int32 array is an Error.
NpyHeader read_npy_header(const std::string& path, std::string_view bytes);

}  // namespace longlora
