#include "data/bpe.hpp"

#include <queue>
#include <tuple>

namespace longlora {
namespace {

constexpr std::int32_t gone = -1;

std::uint64_t key_of(std::int32_t left, std::int32_t right) {
    return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32U |
           static_cast<std::uint32_t>(right);
}

// Two neighbours as they were when this was noted.
struct Candidate {
    std::int32_t rank;
    std::size_t place;  // of the left one
    std::int32_t left;
    std::int32_t right;

    bool operator>(const Candidate& other) const {
        return std::tie(rank, place) > std::tie(other.rank, other.place);
    }
};

}  // namespace

Bpe::Bpe(std::span<const Merge> merges) {
    targets_.reserve(merges.size());
    std::int32_t rank = 0;
    for (const Merge& merge : merges) {
        targets_.emplace(key_of(merge.left, merge.right), Target{rank++, merge.joined});
    }
}

const Bpe::Target* Bpe::find(std::int32_t left, std::int32_t right) const {
    const auto target = targets_.find(key_of(left, right));
    return target == targets_.end() ? nullptr : &target->second;
}

void Bpe::join(std::vector<std::int32_t>& symbols) const {
    const std::size_t end = symbols.size();
    std::vector<std::size_t> next(end);
    std::vector<std::size_t> previous(end);
    std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> candidates;
    const auto note = [&](std::size_t place) {
        if (next[place] < end) {
            const std::int32_t left = symbols[place];
            const std::int32_t right = symbols[next[place]];
            if (const Target* const target = find(left, right)) {
                candidates.push({target->rank, place, left, right});
            }
        }
    };
    for (std::size_t i = 0; i < end; ++i) {
        next[i] = i + 1;
        previous[i] = i - 1;  // of the first: beyond the end
    }
    for (std::size_t i = 0; i < end; ++i) {
        note(i);
    }
    while (!candidates.empty()) {
        const Candidate found = candidates.top();
        candidates.pop();
        const std::size_t right = next[found.place];
        if (symbols[found.place] != found.left || right >= end || symbols[right] != found.right) {
            continue;  // one of them was joined with another
        }
        symbols[found.place] = find(found.left, found.right)->joined;
        symbols[right] = gone;
        next[found.place] = next[right];
        if (next[right] < end) {
            previous[next[right]] = found.place;
        }
        note(found.place);
        if (previous[found.place] < end) {
            note(previous[found.place]);
        }
    }
    std::erase(symbols, gone);
}

}  // namespace longlora
