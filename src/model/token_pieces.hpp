#pragma once

#include <algorithm>

#include "core/view.hpp"

namespace longlora {

// The pieces of tokens that parameter gradients are summed over: half-groups, long ones cut every
// `largest` tokens from their start. Aligned shards consist of whole pieces, so that each sum is made
// by the same products of the same shape in every layout (mathematics.md, section 7).
struct TokenPieces {
    static constexpr Index largest = 1024;

    Index first_position = 0;  // absolute position of row 0
    Index half = largest;      // h

    TokenPieces at_row(Index row) const { return {first_position + row, half}; }

    // Row at which the piece that holds `row` ends, if no piece is longer than `most`.
    Index end_of_piece(Index row, Index most = largest) const {
        const Index inside = (first_position + row) % half;
        return row + std::min((inside / most + 1) * most, half) - inside;
    }

    // body(range) for the pieces that cover [0, rows); the last one ends there.
    template <class Body>
    void for_each(Index rows, const Body& body, Index most = largest) const {
        for (Index begin = 0; begin < rows;) {
            const Index end = std::min(rows, end_of_piece(begin, most));
            body(Range{begin, end});
            begin = end;
        }
    }

    // The most whole pieces from `begin` on that fit into `most` rows.
    Range tile(Index begin, Index rows, Index most) const {
        const Index unit = std::min(most, largest);
        Index end = end_of_piece(begin, unit);
        while (end < rows && end_of_piece(end, unit) - begin <= most) {
            end = end_of_piece(end, unit);
        }
        return {begin, std::min(end, rows)};
    }
};

}  // namespace longlora
