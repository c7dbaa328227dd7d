#pragma once

#include <cstddef>
#include <vector>

namespace longlora::emulator {

// The asynchronous copies of one thread, in groups that end in the order in which they were closed.
class CopyQueue {
public:
    void add(void* shared, const void* global, int bytes);
    void close();
    // The oldest groups, until at most `pending` are left.
    void finish(std::size_t pending);
    void clear();

    static constexpr std::size_t copy_bytes = 16;

private:
    struct Copy {
        void* to;
        const void* from;
        std::size_t bytes;  // the rest becomes 0
    };
    std::vector<Copy> copies_;         // oldest first
    std::vector<std::size_t> groups_;  // how many copies each has
    std::size_t open_ = 0;             // copies in no group yet
};

}  // namespace longlora::emulator
