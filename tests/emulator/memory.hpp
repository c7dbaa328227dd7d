#pragma once

#include <cstddef>

namespace longlora::emulator {

// Whether the bytes lie in one allocation of the GPU's memory.
bool is_device_memory(const void* from, std::size_t bytes);

}  // namespace longlora::emulator
