// In the place of the other files here where there is no CUDA Toolkit.
#include "core/cuda_device.hpp"
#include "core/device_memory.hpp"
#include "core/pinned_memory.hpp"

namespace longlora {

int cuda_device_count() { return 0; }
std::string why_no_cuda_device() { return "a build without CUDA"; }
std::string use_cuda_device(int) { return {}; }
std::string cuda_bus() { return {}; }
std::size_t free_cuda_memory() { return 0; }
std::size_t peak_cuda_memory() { return 0; }

PinnedMemory::PinnedMemory(std::size_t, const std::string&) {}
PinnedMemory::~PinnedMemory() = default;
PinnedMemory::PinnedMemory(PinnedMemory&&) noexcept = default;
PinnedMemory& PinnedMemory::operator=(PinnedMemory&&) noexcept = default;

}  // namespace longlora
