#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace longlora::emulator {

// How many registers a thread of each warp has (setmaxnreg).
class RegisterCounts {
public:
    void prepare_block(std::size_t threads);
    // All lanes of a warp; `takes`: not fewer than before, otherwise not more.
    void set(int registers, bool takes);
    std::string left_at_end() const;

private:
    std::vector<int> of_warp_;
    int at_start_ = 0;
    bool has_changed_ = false;
};

}  // namespace longlora::emulator
