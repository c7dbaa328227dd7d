#pragma once

#include <optional>
#include <vector>

#include "model/kept_keys_values.hpp"
#include "sequence/left_context.hpp"

namespace longlora {

// A block of this rank's own K/V that a later chunk needs: kept from the first pass until the
// owner's backward, its dK/dV collected meanwhile (mathematics.md, section 4).
struct KeptBlock {
    Index owner;  // shard, held by this rank
    Range kv_heads;
    Range tokens;         // absolute
    Index last_consumer;  // the latest chunk that needs it: the first to add to its dK/dV
    Index offset;         // elements, within a layer's kept K/V
    Index gradient_slot;  // dK/dV memory, shared by blocks that are never alive together

    Index elements(Index head_dim) const { return 2 * tokens.size() * kv_heads.size() * head_dim; }
};

// What left context is a function of.
struct ContextShape {
    Layout layout;
    Heads heads;
    Index head_dim;
    Index layers;          // of the model
    bool wants_gradients;  // training: dK/dV are collected, and halos stay until backward
};

// The kept K/V of all layers and chunks of one row, and dK/dV of those that are being collected.
template <class Device>
class KeptContext {
public:
    KeptContext(Arena<Device>& arena, const ContextShape& shape, Index rank);

    const std::vector<KeptBlock>& blocks() const { return blocks_; }
    // The place in blocks() of what `block` asks for.
    Index find(const ContextBlock& block) const;
    KeptPlace place(const KeptBlock& block) const {
        return {block.offset, block.tokens.size(), block.kv_heads.size() * head_dim_};
    }
    KeptKeysValues<Device>& keys_values() { return *keys_values_; }
    const KeptKeysValues<Device>& keys_values() const { return *keys_values_; }
    std::size_t host_bytes() const { return KeptKeysValues<Device>::host_bytes(kept_shape_); }
    KeyValuePair<Device, float> gradients(Index layer, const KeptBlock& block) const;

private:
    void collect(const Layout& layout, const Heads& heads, Index rank);
    void place_all(const Layout& layout);
    typename KeptKeysValues<Device>::Shape kept_shape(const ContextShape& shape, Index rank) const;

    Index head_dim_;
    std::vector<KeptBlock> blocks_;
    Index layer_elements_ = 0;
    Index slot_elements_ = 0;
    Index slots_ = 0;
    typename KeptKeysValues<Device>::Shape kept_shape_{};
    std::optional<KeptKeysValues<Device>> keys_values_;
    View<Device, float, 2> gradients_;  // (layers * slots, elements)
};

}  // namespace longlora
