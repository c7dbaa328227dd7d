#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>

namespace longlora::emulator {

// The dynamic shared memory of the block that is running. CUDA promises alignment to 16 bytes and no
// content; so this is aligned to 16 and no more, and filled with NaN.
class SharedMemory {
public:
    void resize(std::size_t bytes);
    void poison();
    // Whether nothing has been written behind the end.
    bool is_intact() const;
    unsigned char* data() const { return memory_.get() + offset; }
    bool contains(const void* from, std::size_t bytes) const;

private:
    static constexpr std::size_t offset = 16;
    struct Free {
        void operator()(void* p) const { std::free(p); }
    };
    std::unique_ptr<unsigned char, Free> memory_;
    std::size_t bytes_ = 0;
};

}  // namespace longlora::emulator
