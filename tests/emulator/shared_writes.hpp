#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace longlora::emulator {

// Which 16 bytes of shared memory store_matrices has written that asynchronous operations may not see
// yet, since the thread that gave the address has not fenced. What threads write by themselves is not
// known here.
class SharedWrites {
public:
    void prepare_block(std::size_t threads);
    void add(std::uint32_t address, unsigned thread);
    void fence(unsigned thread);
    // Fails if one of these 16 bytes is not fenced.
    void check(const std::vector<std::uint32_t>& addresses, const char* name) const;

private:
    static constexpr std::uint32_t chunk_bytes = 16;
    static constexpr std::uint16_t nobody = 0xFFFF;
    std::vector<std::uint16_t> writer_;                  // by address / 16
    std::vector<std::vector<std::uint32_t>> of_thread_;  // addresses
};

}  // namespace longlora::emulator
