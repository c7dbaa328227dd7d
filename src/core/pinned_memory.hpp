#pragma once

#include <cstddef>
#include <string>

namespace longlora {

// Memory of the host that a GPU copies to and from while it computes. It is not on the GPU, however
// large; taking it takes time (0.05 to 0.3 s a GB), so once and early. Nothing where `bytes` is 0.
class PinnedMemory {
public:
    PinnedMemory() = default;
    // Error with the remedy where the host has too little.
    PinnedMemory(std::size_t bytes, const std::string& purpose);
    ~PinnedMemory();
    PinnedMemory(PinnedMemory&& other) noexcept;
    PinnedMemory& operator=(PinnedMemory&& other) noexcept;

    void* data() const { return data_; }

private:
    void pin_pages(std::size_t bytes);

    void* data_ = nullptr;
    std::size_t mapped_ = 0;  // bytes of pages of its own; 0: CUDA's
};

}  // namespace longlora
