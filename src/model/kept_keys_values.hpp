#pragma once

#include <optional>
#include <vector>

#include "core/arena.hpp"
#include "core/pinned_memory.hpp"
#include "core/stream.hpp"

namespace longlora {

// K rows, then V rows, of a block: (tokens, heads D) each, contiguous.
template <class Device, class T>
struct KeyValuePair {
    View<Device, T, 2> k;
    View<Device, T, 2> v;

    static KeyValuePair at(T* data, Index rows, Index columns) {
        return {{data, rows, columns}, {data + rows * columns, rows, columns}};
    }
    // Both, as one message.
    View<Device, T, 1> flat() const { return {k.data(), 2 * k.rows() * k.columns()}; }
};

// Where a block's K and V lie among those of its layer.
struct KeptPlace {
    Index offset;  // elements
    Index rows;
    Index columns;

    Index elements() const { return 2 * rows * columns; }
};

// K/V that wait for later chunks, of all layers. On the CPU they lie in the arena. Those of a GPU wait
// in pinned memory of the host, so that a longer sequence takes none of the GPU's: what is kept leaves
// through one of two slots while the next layer computes, and what a chunk reads is fetched a layer
// ahead (gpu.md, section 7). Copies run on a stream of their own, in the order they are asked for.
template <class Device>
class KeptKeysValues {
public:
    // Of `elements` a layer; most_kept and most_read: the most that one chunk adds or reads.
    struct Shape {
        Index layers;
        Index elements;
        Index most_kept;
        Index most_read;
    };
    KeptKeysValues(Arena<Device>& arena, const Shape& shape);

    // Bytes of the host's memory that this takes beside the arena.
    static std::size_t host_bytes(const Shape& shape);

    // What the next chunk adds, and what it reads: from here on places are asked for.
    void begin_chunk(std::vector<KeptPlace> kept, std::vector<KeptPlace> read);

    // To be filled by work of `stream` between the two calls, each of a layer's kept places once.
    void begin_keep(const Stream<Device>& stream);
    KeyValuePair<Device, Element<Device>> to_keep(Index layer, const KeptPlace& place) const;
    void end_keep(const Stream<Device>& stream, Index layer);

    // Work of `stream` from here on finds what this chunk reads of `layer`, which takes no time if it was
    // told ahead: the layer that is read next (any number beyond the layers: none), once all that
    // is waited for before has been asked for.
    void fetch(const Stream<Device>& stream, Index layer);
    void fetch_ahead(const Stream<Device>& stream, Index next);
    KeyValuePair<Device, Element<Device>> fetched(Index layer, const KeptPlace& place) const;

    // Where a place waits; to be sent to another rank.
    KeyValuePair<Device, Element<Device>> stored(Index layer, const KeptPlace& place) const;

private:
    static constexpr bool is_on_host = !std::is_same_v<Device, Cpu>;
    static constexpr Index none = -1;

    View<Device, Element<Device>, 1> slot_of(View<Device, Element<Device>, 2> slots, Index layer,
                                             const std::vector<KeptPlace>& places,
                                             const KeptPlace& place) const;
    void start_fetch(const Stream<Device>& stream, Index layer);

    Shape shape_;
    PinnedMemory memory_;
    View<Device, Element<Device>, 2> stored_;    // (layers, elements), of the arena or the host
    View<Device, Element<Device>, 2> leaving_;   // (2, most_kept): layer l uses slot l mod 2
    View<Device, Element<Device>, 2> arriving_;  // (2, most_read)
    std::vector<KeptPlace> kept_;
    std::vector<KeptPlace> read_;
    Index in_slot_[2] = {none, none};  // the layer that was fetched
    std::optional<Stream<Device>> copies_;
};

}  // namespace longlora
