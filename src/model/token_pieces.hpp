#pragma once

#include <algorithm>
#include <type_traits>

#include "core/device.hpp"
#include "core/view.hpp"

namespace longlora {

// The pieces of tokens that parameter gradients are summed over: half-groups, long ones cut every
// `longest` tokens from their start. Aligned shards consist of whole pieces, so that each sum is made
// by the same products of the same shape in every layout (mathematics.md, section 7).
struct TokenPieces {
    static constexpr Index usual = 1024;

    Index first_position = 0;  // absolute position of row 0
    Index half = usual;        // h
    Index longest = usual;

    // On a GPU a piece's products are short beside the time that it takes to start them.
    template <class Device>
    static constexpr Index longest_on = std::is_same_v<Device, Cpu> ? usual : 4 * usual;

    TokenPieces at_row(Index row) const { return {first_position + row, half, longest}; }

    // Row at which the piece that holds `row` ends.
    Index end_of_piece(Index row) const { return end_of_piece(row, longest); }
    // The same, if no piece is longer than `most`.
    Index end_of_piece(Index row, Index most) const {
        const Index inside = (first_position + row) % half;
        return row + std::min((inside / most + 1) * most, half) - inside;
    }

    // body(range) for the pieces that cover [0, rows); the last one ends there.
    template <class Body>
    void for_each(Index rows, const Body& body) const {
        for_each(rows, body, longest);
    }
    template <class Body>
    void for_each(Index rows, const Body& body, Index most) const {
        for (Index begin = 0; begin < rows;) {
            const Index end = std::min(rows, end_of_piece(begin, most));
            body(Range{begin, end});
            begin = end;
        }
    }

    // body(range) for the tiles that cover [0, rows), each of whole pieces and of at most `most` rows.
    template <class Body>
    void for_each_tile(Index rows, Index most, const Body& body) const {
        for (Index begin = 0; begin < rows;) {
            const Range range = tile(begin, rows, most);
            body(range);
            begin = range.end;
        }
    }
    // The most whole pieces from `begin` on that fit into `most` rows.
    Range tile(Index begin, Index rows, Index most) const {
        const Index unit = std::min(most, longest);
        Index end = end_of_piece(begin, unit);
        while (end < rows && end_of_piece(end, unit) - begin <= most) {
            end = end_of_piece(end, unit);
        }
        return {begin, std::min(end, rows)};
    }
};

}  // namespace longlora
