#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

namespace longlora {

// Byte pair encoding: of all neighbours in a row of symbols those that rank first are joined, the leftmost
// first, until none are left that may be.          (Sennrich, Haddow, Birch, arXiv 1508.07909, 2016)
class Bpe {
public:
    struct Merge {
        std::int32_t left;
        std::int32_t right;
        std::int32_t joined;
    };
    // In the order of their rank.
    explicit Bpe(std::span<const Merge> merges);

    // O(n log n), as a whole novel may be one row.
    void join(std::vector<std::int32_t>& symbols) const;

private:
    struct Target {
        std::int32_t rank;
        std::int32_t joined;
    };
    const Target* find(std::int32_t left, std::int32_t right) const;

    std::unordered_map<std::uint64_t, Target> targets_;
};

}  // namespace longlora
