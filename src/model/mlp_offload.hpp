#pragma once

#include <cstddef>
#include <utility>
#include <vector>

#include "core/arena.hpp"
#include "core/pinned_memory.hpp"
#include "core/stream.hpp"
#include "model/token_pieces.hpp"

namespace longlora {

// gate and up, which the last layers have no room for on a GPU, wait in pinned memory of the host for their
// backward: those of the first tokens of each such layer. A tile is computed in a slot and leaves it
// while the next ones are computed; it is on its way back while those before it are worked on. The copies
// of a slot run on a stream of its own, so that nobody waits for another's.
template <class Device>
class MlpOffload {
public:
    static constexpr Index slots = 3;

    struct Shape {
        Range layers;   // of the model
        Index tokens;   // of each of them; 0: none wait
        Index tile;     // the most rows of one tile
        Index columns;  // F, and
        Index behind;   // more columns that are not part of the views

        bool is_empty() const { return layers.empty() || tokens == 0; }
    };
    // gate and up of one tile: (rows, F) each.
    using Tile = std::pair<View<Device, Element<Device>, 2>, View<Device, Element<Device>, 2>>;

    // Slots are the arena's. On the CPU the shape must be empty.
    MlpOffload(Arena<Device>& arena, const Shape& shape);

    // Bytes of the host's memory that this takes beside the arena.
    static std::size_t host_bytes(const Shape& shape);

    bool takes(Index layer, Range rows) const {
        return !shape_.is_empty() && layer >= shape_.layers.begin && layer < shape_.layers.end &&
               rows.end <= shape_.tokens;
    }

    // Forward: to be filled by work of `stream` between the two calls.
    Tile begin_keep(const Stream<Device>& stream, Range rows);
    void end_keep(const Stream<Device>& stream, Index layer, Range rows);

    // Backward, when all are kept: layers from the last one on, of each the tiles that `pieces` of so many
    // tokens make. Each that this takes is fetched in that order, and done with before the next.
    void begin_fetch(const Stream<Device>& stream, const TokenPieces& pieces, Index tokens);
    Tile fetch(const Stream<Device>& stream, Index layer, Range rows);
    void done(const Stream<Device>& stream);

private:
    // A tile of those that wait.
    struct Place {
        Index layer;
        Range rows;
    };

    std::size_t slot() const { return static_cast<std::size_t>(turn_ % slots); }
    Tile tile(std::size_t slot, Index rows) const;
    void copy(const Stream<Device>& copies, const Place& place, std::size_t slot,
              bool leaves) const;
    void start_fetch(const Stream<Device>& stream, Index turn);

    Shape shape_;
    PinnedMemory memory_;
    View<Device, Element<Device>, 2> memory_of_slots_;  // (slots, elements of gate and up)
    std::vector<Stream<Device>> copies_;
    Index turn_ = 0;              // tiles that were kept, or done with
    std::vector<Place> fetched_;  // all of a backward, in its order
};

}  // namespace longlora
