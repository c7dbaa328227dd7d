#include "model/mlp_offload.hpp"

#include <iterator>

#include "core/error.hpp"
#include "core/transfer.hpp"

namespace longlora {

template <class Device>
MlpOffload<Device>::MlpOffload(Arena<Device>& arena, const Shape& shape)
    : shape_(shape),
      memory_of_slots_(arena.template matrix<Element<Device>>(
          shape.is_empty() ? 0 : slots, 2 * shape.tile * (shape.columns + shape.behind))) {
    if (shape.is_empty() || arena.is_measuring()) {
        return;
    }
    memory_ = PinnedMemory(host_bytes(shape),
                           "gate and up of " + std::to_string(shape.all_tokens()) + " tokens");
    for (Index i = 0; i < slots; ++i) {
        copies_.emplace_back();
    }
}

template <class Device>
std::size_t MlpOffload<Device>::host_bytes(const Shape& shape) {
    return sizeof(Element<Device>) *
           static_cast<std::size_t>(2 * shape.all_tokens() * (shape.columns + shape.behind));
}

template <class Device>
typename MlpOffload<Device>::Tile MlpOffload<Device>::tile(std::size_t slot, Index rows) const {
    const Index pitch = shape_.columns + shape_.behind;
    Element<Device>* const gate = memory_of_slots_.row(static_cast<Index>(slot));
    return {{gate, rows, shape_.columns, pitch},
            {gate + shape_.tile * pitch, rows, shape_.columns, pitch}};
}

template <class Device>
typename MlpOffload<Device>::Tile MlpOffload<Device>::begin_keep(const Stream<Device>& stream,
                                                                 Range rows) {
    if constexpr (!std::is_same_v<Device, Cpu>) {
        stream.wait_for(copies_[slot()]);  // its last content has left
    }
    return tile(slot(), rows.size());
}

template <class Device>
void MlpOffload<Device>::end_keep(const Stream<Device>& stream, Index layer, Range rows) {
    if constexpr (!std::is_same_v<Device, Cpu>) {
        copies_[slot()].wait_for(stream);
        copy(copies_[slot()], {layer, rows}, slot(), true);
    }
    ++turn_;
}

// Between a slot and where the tile waits: rows of gate, then those of up, for all tokens of a layer.
template <class Device>
void MlpOffload<Device>::copy(const Stream<Device>& copies, const Place& place, std::size_t slot,
                              bool leaves) const {
    if constexpr (!std::is_same_v<Device, Cpu>) {
        const Index pitch = shape_.columns + shape_.behind;
        const auto layer = shape_.tokens.begin() + place.layer;
        const Index before = std::accumulate(shape_.tokens.begin(), layer, Index{0});
        auto* const of_gate =
            static_cast<Element<Device>*>(memory_.data()) + (2 * before + place.rows.begin) * pitch;
        auto* const of_up = of_gate + *layer * pitch;
        const auto bytes =
            sizeof(Element<Device>) * static_cast<std::size_t>(place.rows.size() * pitch);
        const auto [gate, up] = tile(slot, place.rows.size());
        copy_async(copies, leaves ? of_gate : gate.data(), leaves ? gate.data() : of_gate, bytes);
        copy_async(copies, leaves ? of_up : up.data(), leaves ? up.data() : of_up, bytes);
    }
}

// What comes back by one stream has left by another.
template <class Device>
void MlpOffload<Device>::wait_for_each_other() const {
    if constexpr (!std::is_same_v<Device, Cpu>) {
        for (const Stream<Device>& copies : copies_) {
            copies_.front().wait_for(copies);
        }
        for (const Stream<Device>& copies : copies_) {
            copies.wait_for(copies_.front());
        }
    }
}

template <class Device>
void MlpOffload<Device>::begin_fetch(const Stream<Device>& stream, const TokenPieces& pieces,
                                     Index tokens) {
    fetched_.clear();
    turn_ = 0;
    wait_for_each_other();
    for (Index layer = std::ssize(shape_.tokens) - 1; layer >= 0; --layer) {
        pieces.for_each_tile(tokens, shape_.tile, [&](Range rows) {
            if (takes(layer, rows)) {
                fetched_.push_back({layer, rows});
            }
        });
    }
    for (Index turn = 0; turn < slots; ++turn) {
        start_fetch(stream, turn);
    }
}

// Whoever wrote it to the host, or uses the slot, was started before.
template <class Device>
void MlpOffload<Device>::start_fetch(const Stream<Device>& stream, Index turn) {
    if constexpr (!std::is_same_v<Device, Cpu>) {
        if (turn >= static_cast<Index>(fetched_.size())) {
            return;
        }
        const auto slot = static_cast<std::size_t>(turn % slots);
        copies_[slot].wait_for(stream);
        copy(copies_[slot], fetched_[static_cast<std::size_t>(turn)], slot, false);
    }
}

template <class Device>
typename MlpOffload<Device>::Tile MlpOffload<Device>::fetch(const Stream<Device>& stream,
                                                            Index layer, Range rows) {
    const Place& next = fetched_.at(static_cast<std::size_t>(turn_));
    ensure(next.layer == layer && next.rows == rows, "gate and up were not fetched in order");
    if constexpr (!std::is_same_v<Device, Cpu>) {
        stream.wait_for(copies_[slot()]);
    }
    return tile(slot(), rows.size());
}

template <class Device>
void MlpOffload<Device>::done(const Stream<Device>& stream) {
    start_fetch(stream, turn_ + slots);
    ++turn_;
}

LONGLORA_INSTANTIATE(MlpOffload);

}  // namespace longlora
