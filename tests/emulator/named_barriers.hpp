#pragma once

#include <array>
#include <vector>

#include "scheduler.hpp"

namespace longlora::emulator {

// Barriers of parts of a block by number. A thread that only arrives goes on at once.
class NamedBarriers {
public:
    void sync(int number, int threads);
    void arrive(int number, int threads);
    void clear() { barriers_ = {}; }

private:
    struct Barrier {
        int threads = 0;                // that it is for; 0: nobody has come
        std::vector<unsigned> arrived;  // those that wait as well
        Waiting waiting;
    };
    // Whether the barrier has opened.
    bool add(Barrier& barrier, const char* name, int threads);
    Barrier& find(int number, const char* name, int threads);

    std::array<Barrier, 16> barriers_;
};

}  // namespace longlora::emulator
