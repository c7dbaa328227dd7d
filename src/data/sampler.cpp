#include "data/sampler.hpp"

#include "core/random.hpp"

namespace longlora {

Index stream_rows(Index tokens, Index N) { return tokens / (N + 1); }

Range row_tokens(Index row, Index N) { return {row * (N + 1), (row + 1) * (N + 1)}; }

Range row_labels(Index row, Index N) { return {row * (N + 1) + 1, (row + 1) * (N + 1)}; }

Index RowOrder::row_of(Index step, Index position) const {
    const Index drawn = step * batch + position;  // rows drawn before this one
    const Index epoch = drawn / rows;
    const std::uint64_t key =
        random_key(seed, Purpose::row_order, static_cast<std::uint64_t>(epoch));
    return static_cast<Index>(
        permuted(key, static_cast<std::uint64_t>(drawn % rows), static_cast<std::uint64_t>(rows)));
}

Range deal(Index batch, Index replicas, Index replica) {
    return {batch * replica / replicas, batch * (replica + 1) / replicas};
}

}  // namespace longlora
