#include "model/kept_context.hpp"

#include <algorithm>

#include "core/error.hpp"

namespace longlora {

template <class Device>
KeptContext<Device>::KeptContext(Arena<Device>& arena, const ContextShape& shape, Index rank)
    : head_dim_(shape.head_dim), gradients_(nullptr, 0, 0) {
    collect(shape.layout, shape.heads, rank);
    place_all(shape.layout);
    kept_shape_ = kept_shape(shape, rank);
    keys_values_.emplace(arena, kept_shape_);
    gradients_ = arena.template matrix<float>(shape.wants_gradients ? shape.layers * slots_ : 0,
                                              slot_elements_);
}

template <class Device>
void KeptContext<Device>::collect(const Layout& layout, const Heads& heads, Index rank) {
    for (Index consumer = 0; consumer < layout.shards(); ++consumer) {
        const Index chunk = layout.chunk_of(consumer);
        for (const ContextBlock& block : plan_shard(layout, heads, consumer).blocks) {
            if (layout.rank_of(block.owner) != rank || layout.chunk_of(block.owner) >= chunk) {
                continue;
            }
            const auto same = std::find_if(blocks_.begin(), blocks_.end(), [&](const KeptBlock& b) {
                return b.owner == block.owner && b.tokens == block.tokens &&
                       b.kv_heads == block.kv_heads;
            });
            if (same == blocks_.end()) {
                blocks_.push_back({block.owner, block.kv_heads, block.tokens, chunk, 0, 0});
            } else {
                same->last_consumer = chunk;  // consumers come in ascending order
            }
        }
    }
}

// A block's dK/dV live from the backward of its last consumer to that of its owner. Within a layer
// the owner reads before anyone clears, so a slot passes on in the very chunk that frees it.
template <class Device>
void KeptContext<Device>::place_all(const Layout& layout) {
    std::vector<KeptBlock*> by_consumer;
    for (KeptBlock& block : blocks_) {
        block.offset = layer_elements_;
        layer_elements_ += (block.elements(head_dim_) + 15) / 16 * 16;
        slot_elements_ = std::max(slot_elements_, (block.elements(head_dim_) + 15) / 16 * 16);
        by_consumer.push_back(&block);
    }
    std::stable_sort(by_consumer.begin(), by_consumer.end(),
                     [](const KeptBlock* a, const KeptBlock* b) {
                         return a->last_consumer >
                                b->last_consumer;  // the backward pass runs from the last chunk
                     });
    std::vector<Index> busy_until;  // owner's chunk of the block in each slot
    for (KeptBlock* block : by_consumer) {
        const auto is_free = [&](Index owner_chunk) { return owner_chunk >= block->last_consumer; };
        const auto slot = std::find_if(busy_until.begin(), busy_until.end(), is_free);
        block->gradient_slot = slot - busy_until.begin();
        if (slot == busy_until.end()) {
            busy_until.push_back(layout.chunk_of(block->owner));
        } else {
            *slot = layout.chunk_of(block->owner);
        }
    }
    slots_ = static_cast<Index>(busy_until.size());
}

template <class Device>
Index KeptContext<Device>::find(const ContextBlock& block) const {
    const auto place = std::find_if(blocks_.begin(), blocks_.end(), [&](const KeptBlock& b) {
        return b.owner == block.owner && b.tokens == block.tokens && b.kv_heads == block.kv_heads;
    });
    ensure(place != blocks_.end(), "a left-context block is not among the kept ones");
    return place - blocks_.begin();
}

// What one chunk adds, and what it reads of this rank's own.
template <class Device>
typename KeptKeysValues<Device>::Shape KeptContext<Device>::kept_shape(const ContextShape& shape,
                                                                       Index rank) const {
    const Layout& layout = shape.layout;
    const auto padded = [&](const KeptBlock& block) {
        return round_up(block.elements(head_dim_), 16);
    };
    Index most_kept = 0;
    Index most_read = 0;
    for (Index chunk = 0; chunk < layout.chunks; ++chunk) {
        const Index shard = layout.shard_of(chunk, rank);
        Index kept = 0;
        for (const KeptBlock& block : blocks_) {
            kept += block.owner == shard ? padded(block) : 0;
        }
        Index read = 0;
        for (const ContextBlock& block : plan_shard(layout, shape.heads, shard).blocks) {
            const bool is_own = layout.rank_of(block.owner) == rank;
            read += is_own ? padded(blocks_[static_cast<std::size_t>(find(block))]) : 0;
        }
        most_kept = std::max(most_kept, kept);
        most_read = std::max(most_read, read);
    }
    return {shape.layers, layer_elements_, most_kept, most_read};
}

template <class Device>
KeyValuePair<Device, float> KeptContext<Device>::gradients(Index layer,
                                                           const KeptBlock& block) const {
    return KeyValuePair<Device, float>::at(gradients_.row(layer * slots_ + block.gradient_slot),
                                           block.tokens.size(), block.kv_heads.size() * head_dim_);
}

LONGLORA_INSTANTIATE(KeptContext);

}  // namespace longlora
