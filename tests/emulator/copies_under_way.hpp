#pragma once

#include <cstdint>
#include <vector>

namespace longlora::emulator {

// Where in shared memory copies are under way.
class CopiesUnderWay {
public:
    // Fails where there is one already.
    void begin(const void* shared, std::uint64_t bytes, const char* name);
    void end(const void* shared);
    void clear() { ranges_.clear(); }

private:
    struct Range {
        const unsigned char* first;
        std::uint64_t bytes;
    };
    std::vector<Range> ranges_;
};

}  // namespace longlora::emulator
