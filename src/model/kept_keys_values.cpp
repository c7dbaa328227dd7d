#include "model/kept_keys_values.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "core/transfer.hpp"

namespace longlora {

template <class Device>
KeptKeysValues<Device>::KeptKeysValues(Arena<Device>& arena, const Shape& shape)
    : shape_(shape),
      stored_(nullptr, shape.layers, shape.elements),
      leaving_(arena.template matrix<Element<Device>>(is_on_host ? 2 : 0, shape.most_kept)),
      arriving_(arena.template matrix<Element<Device>>(is_on_host ? 2 : 0, shape.most_read)) {
    if constexpr (is_on_host) {
        if (!arena.is_measuring() && host_bytes(shape) > 0) {
            memory_ = PinnedMemory(host_bytes(shape), "kept K/V");
            stored_ = {static_cast<Element<Device>*>(memory_.data()), shape.layers, shape.elements};
            copies_.emplace();
        }
    } else {
        stored_ = arena.template matrix<Element<Device>>(shape.layers, shape.elements);
    }
}

template <class Device>
std::size_t KeptKeysValues<Device>::host_bytes(const Shape& shape) {
    return is_on_host
               ? sizeof(Element<Device>) * static_cast<std::size_t>(shape.layers * shape.elements)
               : 0;
}

template <class Device>
void KeptKeysValues<Device>::begin_chunk(std::vector<KeptPlace> kept, std::vector<KeptPlace> read) {
    kept_ = std::move(kept);
    read_ = std::move(read);
    in_slot_[0] = none;
    in_slot_[1] = none;
}

// Places of a chunk lie one behind another in a slot.
template <class Device>
View<Device, Element<Device>, 1> KeptKeysValues<Device>::slot_of(
    View<Device, Element<Device>, 2> slots, Index layer, const std::vector<KeptPlace>& places,
    const KeptPlace& place) const {
    Index before = 0;
    for (const KeptPlace& other : places) {
        if (other.offset == place.offset) {
            return {slots.row(layer % 2) + before, place.elements()};
        }
        before += round_up(other.elements(), 16);
    }
    ensure(false, "kept K/V were asked for that this chunk neither keeps nor reads");
    return {nullptr, 0};
}

template <class Device>
void KeptKeysValues<Device>::begin_keep(const Stream<Device>& stream) {
    if constexpr (is_on_host) {
        if (copies_) {
            stream.wait_for(*copies_);  // the slot's last content has left
        }
    }
}

template <class Device>
KeyValuePair<Device, Element<Device>> KeptKeysValues<Device>::to_keep(
    Index layer, const KeptPlace& place) const {
    if constexpr (is_on_host) {
        return KeyValuePair<Device, Element<Device>>::at(
            slot_of(leaving_, layer, kept_, place).data(), place.rows, place.columns);
    } else {
        return stored(layer, place);
    }
}

template <class Device>
void KeptKeysValues<Device>::end_keep(const Stream<Device>& stream, Index layer) {
    if constexpr (is_on_host) {
        if (!kept_.empty()) {
            copies_->wait_for(stream);
        }
        for (const KeptPlace& place : kept_) {
            const auto from = slot_of(leaving_, layer, kept_, place);
            copy_async(*copies_, stored(layer, place).k.data(), from.data(),
                       sizeof(Element<Device>) * static_cast<std::size_t>(from.size()));
        }
    }
}

template <class Device>
void KeptKeysValues<Device>::fetch(const Stream<Device>& stream, Index layer) {
    if constexpr (is_on_host) {
        if (!copies_) {
            return;
        }
        if (in_slot_[layer % 2] != layer) {
            start_fetch(stream, layer);
        }
        stream.wait_for(*copies_);
    }
}

template <class Device>
void KeptKeysValues<Device>::fetch_ahead(const Stream<Device>& stream, Index next) {
    if constexpr (is_on_host) {
        if (copies_ && next >= 0 && next < shape_.layers && in_slot_[next % 2] != next) {
            start_fetch(stream, next);
        }
    }
}

// Whoever reads the slot's old content was started before.
template <class Device>
void KeptKeysValues<Device>::start_fetch(const Stream<Device>& stream, Index layer) {
    if constexpr (is_on_host) {
        copies_->wait_for(stream);
        for (const KeptPlace& place : read_) {
            const auto to = slot_of(arriving_, layer, read_, place);
            copy_async(*copies_, to.data(), stored(layer, place).k.data(),
                       sizeof(Element<Device>) * static_cast<std::size_t>(to.size()));
        }
        in_slot_[layer % 2] = layer;
    }
}

template <class Device>
KeyValuePair<Device, Element<Device>> KeptKeysValues<Device>::fetched(
    Index layer, const KeptPlace& place) const {
    if constexpr (is_on_host) {
        ensure(in_slot_[layer % 2] == layer, "kept K/V were read before they were fetched");
        return KeyValuePair<Device, Element<Device>>::at(
            slot_of(arriving_, layer, read_, place).data(), place.rows, place.columns);
    } else {
        return stored(layer, place);
    }
}

template <class Device>
KeyValuePair<Device, Element<Device>> KeptKeysValues<Device>::stored(Index layer,
                                                                     const KeptPlace& place) const {
    return KeyValuePair<Device, Element<Device>>::at(stored_.row(layer) + place.offset, place.rows,
                                                     place.columns);
}

LONGLORA_INSTANTIATE(KeptKeysValues);

}  // namespace longlora
