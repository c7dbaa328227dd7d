#pragma once

#include <cstdint>

#include "core/view.hpp"

// Which tokens a step trains on: pure functions of (seed, step, place in the batch). There is no
// cursor to save, and the ranks' layout plays no part.
namespace longlora {

// Row i of a stream is its tokens [i (N+1), (i+1) (N+1)): N inputs and N labels. The rest at the end
// is left out.
Index stream_rows(Index tokens, Index N);
Range row_tokens(Index row, Index N);
Range row_labels(Index row, Index N);  // all but the first

// The row at `position` of the batch of `step` (both 0-based). An epoch shows each row once, in an
// order of its own; a batch may reach across epochs.
struct RowOrder {
    std::uint64_t seed = 0;
    Index batch = 1;
    Index rows = 0;

    Index row_of(Index step, Index position) const;
};

// Positions of the batch that `replica` of `replicas` takes: as evenly as they go.
Range deal(Index batch, Index replicas, Index replica);

}  // namespace longlora
