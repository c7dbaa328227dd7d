#pragma once

#include <cstddef>
#include <cstdint>
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

    // Addresses as instructions take them: as far aligned as the pointers are. The hardware keeps the
    // first 1,024 bytes of shared memory, so that no address is 0.
    static constexpr std::uint32_t kept_bytes = 1024;
    bool contains_dynamic(const void* from, std::size_t bytes) const;
    std::uint32_t address(const void* p) const {
        return static_cast<std::uint32_t>(static_cast<const unsigned char*>(p) - memory_.get()) +
               kept_bytes;
    }
    unsigned char* at(std::uint32_t address) const { return memory_.get() + address - kept_bytes; }
    bool contains_address(std::uint32_t first, std::size_t bytes) const {
        return first >= kept_bytes + offset && first - kept_bytes - offset + bytes <= bytes_;
    }

private:
    static constexpr std::size_t offset = 16;
    struct Free {
        void operator()(void* p) const { std::free(p); }
    };
    std::unique_ptr<unsigned char, Free> memory_;
    std::size_t bytes_ = 0;
};

}  // namespace longlora::emulator
