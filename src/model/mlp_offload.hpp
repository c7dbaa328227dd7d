#pragma once

#include <cstddef>
#include <numeric>
#include <utility>
#include <vector>

#include "core/arena.hpp"
#include "core/pinned_memory.hpp"
#include "core/stream.hpp"
#include "model/token_pieces.hpp"

namespace longlora {

// gate and up, as far as a GPU has no room for them, wait in pinned memory of the host for their backward:
// those of the first tokens of each layer. A tile is computed in a slot and leaves it
// while the next ones are computed; it is on its way back while those before it are worked on. The copies
// of a slot run on a stream of its own, so that nobody waits for another's.
template <class Device>
class MlpOffload {
public:
    static constexpr Index slots = 3;

    struct Shape {
        std::vector<Index> tokens;  // of each layer of the model, its first
        Index tile;                 // the most rows of one tile
        Index columns;              // F, and
        Index behind;               // more columns that are not part of the views

        Index all_tokens() const { return std::accumulate(tokens.begin(), tokens.end(), Index{0}); }
        bool is_empty() const { return all_tokens() == 0; }
    };
    // gate and up of one tile: (rows, F) each.
    using Tile = std::pair<View<Device, Element<Device>, 2>, View<Device, Element<Device>, 2>>;

    // Slots are the arena's. On the CPU the shape must be empty.
    MlpOffload(Arena<Device>& arena, const Shape& shape);

    // Bytes of the host's memory that this takes beside the arena.
    static std::size_t host_bytes(const Shape& shape);

    bool takes(Index layer, Range rows) const {
        return !rows.empty() && rows.end <= shape_.tokens[static_cast<std::size_t>(layer)];
    }

    // Forward: to be filled by work of `stream` between the two calls.
    Tile begin_keep(const Stream<Device>& stream, Range rows);
    void end_keep(const Stream<Device>& stream, Index layer, Range rows);

    // Backward, when all are kept: layers from the last one on, of each the tiles that `pieces` of so many
    // tokens make. Each that this takes is fetched in that order, and done with before the next. `stream`
    // waits for none before it is fetched.
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
    void wait_for_each_other() const;
    void start_fetch(const Stream<Device>& stream, Index turn);

    Shape shape_;
    PinnedMemory memory_;
    View<Device, Element<Device>, 2> memory_of_slots_;  // (slots, elements of gate and up)
    std::vector<Stream<Device>> copies_;
    Index turn_ = 0;              // tiles that were kept, or done with
    std::vector<Place> fetched_;  // all of a backward, in its order
};

}  // namespace longlora
