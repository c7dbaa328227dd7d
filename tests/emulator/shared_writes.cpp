#include "shared_writes.hpp"

#include <string>

#include "emulator.hpp"

namespace longlora::emulator {

void SharedWrites::prepare_block(std::size_t threads) {
    writer_.clear();
    of_thread_.resize(threads);
    for (auto& addresses : of_thread_) {
        addresses.clear();
    }
}

void SharedWrites::add(std::uint32_t address, unsigned thread) {
    constexpr std::size_t chunks = (std::size_t{1} << 18U) / chunk_bytes;
    writer_.resize(chunks, nobody);
    writer_[address / chunk_bytes] = static_cast<std::uint16_t>(thread);
    of_thread_[thread].push_back(address);
}

void SharedWrites::fence(unsigned thread) {
    for (const std::uint32_t address : of_thread_[thread]) {
        std::uint16_t& writer = writer_[address / chunk_bytes];
        writer = writer == thread ? nobody : writer;
    }
    of_thread_[thread].clear();
}

void SharedWrites::check(const std::vector<std::uint32_t>& addresses, const char* name) const {
    if (writer_.empty()) {
        return;
    }
    for (const std::uint32_t address : addresses) {
        if (const std::uint16_t writer = writer_[address / chunk_bytes]; writer != nobody) {
            fail(std::string(name) + " of what thread " + std::to_string(writer) +
                 " has written by store_matrices without fence_shared");
        }
    }
}

}  // namespace longlora::emulator
