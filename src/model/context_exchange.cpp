#include "model/context_exchange.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "core/transfer.hpp"
#include "kernels/elementwise.hpp"

namespace longlora {
namespace {

constexpr int gradient_tag = 1 << 14;  // apart from the tags of K/V, which count blocks

Index padded(Index elements) { return (elements + 15) / 16 * 16; }

}  // namespace

template <class Device>
ContextExchange<Device>::ContextExchange(Arena<Device>& arena, const ContextShape& shape,
                                         Index rank)
    : shape_(shape),
      keeps_received_(shape.wants_gradients),
      kept_(arena, shape, rank),
      received_(nullptr, 0, 0),
      staged_(nullptr, 0),
      gradients_out_(nullptr, 0),
      gradients_in_(nullptr, 0) {
    Index most_in = 0;
    Index most_out = 0;
    for (Index chunk = 0; chunk < shape.layout.chunks; ++chunk) {
        chunks_.push_back(plan_chunk(chunk, rank));
        const ChunkPlan& plan = chunks_.back();
        for (const Incoming& in : plan.incoming) {
            most_in = in.kept == none
                          ? std::max(most_in, in.offset + padded(in.block.elements(shape.head_dim)))
                          : most_in;
        }
        for (const Outgoing& out : plan.outgoing) {
            most_out = std::max(most_out, out.offset + padded(out.block.elements(shape.head_dim)));
        }
    }
    received_ = arena.template matrix<Element<Device>>(keeps_received_ ? shape.layers : 1, most_in);
    staged_ = arena.template vector<Element<Device>>(most_out);
    gradients_out_ = arena.template vector<float>(shape.wants_gradients ? most_in : 0);
    gradients_in_ = arena.template vector<float>(shape.wants_gradients ? most_out : 0);
}

template <class Device>
typename ContextExchange<Device>::ChunkPlan ContextExchange<Device>::plan_chunk(Index chunk,
                                                                                Index rank) const {
    const Layout& layout = shape_.layout;
    ChunkPlan result{layout.shard_of(chunk, rank), {}, {}, {}};
    result.plan = plan_shard(layout, shape_.heads, result.shard);
    Index offset = 0;
    for (const ContextBlock& block : result.plan.blocks) {
        const Index owner = layout.rank_of(block.owner);
        const bool is_local = owner == rank;
        result.incoming.push_back({block, static_cast<int>(owner),
                                   is_local ? kept_.find(block) : none, is_local ? 0 : offset});
        offset += is_local ? 0 : padded(block.elements(shape_.head_dim));
    }
    offset = 0;
    for (Index peer = 0; peer < layout.ranks; ++peer) {
        const ShardPlan plan = plan_shard(layout, shape_.heads, layout.shard_of(chunk, peer));
        for (std::size_t i = 0; i < plan.blocks.size(); ++i) {
            const ContextBlock& block = plan.blocks[i];
            if (peer == rank || layout.rank_of(block.owner) != rank) {
                continue;
            }
            const Index kept = layout.chunk_of(block.owner) < chunk ? kept_.find(block) : none;
            result.outgoing.push_back(
                {block, static_cast<int>(peer), kept, static_cast<int>(i), offset});
            offset += padded(block.elements(shape_.head_dim));
        }
    }
    return result;
}

template <class Device>
void ContextExchange<Device>::connect(const Communicator<Device>& sequence, PhaseTimer& timer) {
    sequence_ = &sequence;
    timer_ = &timer;
}

template <class Device>
void ContextExchange<Device>::begin_chunk(Index chunk, Pass pass) {
    chunk_ = static_cast<std::size_t>(chunk);
    pass_ = pass;
    std::vector<KeptPlace> kept;
    if (pass == Pass::keep) {
        for (const KeptBlock& block : kept_.blocks()) {
            if (block.owner == chunks_[chunk_].shard) {
                kept.push_back(kept_.place(block));
            }
        }
    }
    std::vector<KeptPlace> read;
    for (const Incoming& in : chunks_[chunk_].incoming) {
        if (in.kept != none) {
            read.push_back(kept_.place(kept_.blocks()[static_cast<std::size_t>(in.kept)]));
        }
    }
    kept_.keys_values().begin_chunk(std::move(kept), std::move(read));
}

template <class Device>
template <class T>
View<Device, T, 2> ContextExchange<Device>::part(View<Device, T, 2> whole, Range tokens,
                                                 Range heads) const {
    const Index first = this->tokens().begin;
    return whole.rows({tokens.begin - first, tokens.end - first})
        .columns({heads.begin * shape_.head_dim, heads.end * shape_.head_dim});
}

template <class Device>
KeyValuePair<Device, Element<Device>> ContextExchange<Device>::received(Index layer,
                                                                        const Incoming& in) const {
    return KeyValuePair<Device, Element<Device>>::at(received_.row(receive_row(layer)) + in.offset,
                                                     in.block.rows(),
                                                     in.block.kv_heads.size() * shape_.head_dim);
}

template <class Device>
void ContextExchange<Device>::begin_forward(const Stream<Device>& stream, Index layer,
                                            View<Device, const Element<Device>, 2> k,
                                            View<Device, const Element<Device>, 2> v) {
    // Receives first: with boundary wrap the messages close a ring.
    receives_.clear();
    const auto& incoming = chunks_[chunk_].incoming;
    for (std::size_t i = 0; i < incoming.size(); ++i) {
        const Incoming& in = incoming[i];
        receives_.push_back(in.kept == none ? sequence_->receive(stream, received(layer, in).flat(),
                                                                 in.peer, static_cast<int>(i))
                                            : Request());
    }
    kept_.keys_values().fetch(stream, layer);
    if (pass_ == Pass::keep) {
        keep_only(stream, layer, k, v);  // waits for all copies so far
    }
    kept_.keys_values().fetch_ahead(stream, layer + 1);
    start_sends(stream, layer, k, v);
    start_messages();
}

template <class Device>
void ContextExchange<Device>::keep_only(const Stream<Device>& stream, Index layer,
                                        View<Device, const Element<Device>, 2> k,
                                        View<Device, const Element<Device>, 2> v) {
    auto& store = kept_.keys_values();
    store.begin_keep(stream);
    for (const KeptBlock& block : kept_.blocks()) {
        if (block.owner == chunks_[chunk_].shard) {
            const auto kept = store.to_keep(layer, kept_.place(block));
            copy(stream, {.x = part(k, block.tokens, block.kv_heads), .out = kept.k});
            copy(stream, {.x = part(v, block.tokens, block.kv_heads), .out = kept.v});
        }
    }
    store.end_keep(stream, layer);
}

template <class Device>
void ContextExchange<Device>::start_sends(const Stream<Device>& stream, Index layer,
                                          View<Device, const Element<Device>, 2> k,
                                          View<Device, const Element<Device>, 2> v) {
    if (!chunks_[chunk_].outgoing.empty()) {
        notify("send");
    }
    for (const Outgoing& out : chunks_[chunk_].outgoing) {
        const auto columns = out.block.kv_heads.size() * shape_.head_dim;
        auto pair = KeyValuePair<Device, Element<Device>>::at(staged_.data() + out.offset,
                                                              out.block.rows(), columns);
        if (out.kept != none) {
            const auto& block = kept_.blocks()[static_cast<std::size_t>(out.kept)];
            pair = kept_.keys_values().stored(layer, kept_.place(block));
        } else {
            copy(stream, {.x = part(k, out.block.tokens, out.block.kv_heads), .out = pair.k});
            copy(stream, {.x = part(v, out.block.tokens, out.block.kv_heads), .out = pair.v});
        }
        const View<Device, const Element<Device>, 1> message = pair.flat();
        sent_bytes_ += static_cast<double>(message.size() * Index{sizeof(Element<Device>)});
        sends_.push_back(sequence_->send(stream, message, out.peer, out.tag));
    }
}

template <class Device>
void ContextExchange<Device>::poll() {
    for (Request& request : receives_) {
        request.test();
    }
    poll_sends();
}

template <class Device>
void ContextExchange<Device>::poll_sends() {
    for (Request& request : sends_) {
        request.test();
    }
}

template <class Device>
KeyValueBlock<Device> ContextExchange<Device>::wait_block(Index layer, Index index) {
    const PhaseScope waiting(*timer_, Phase::halo_wait);
    // A message of a device may have to be passed on by this rank before the peer can answer.
    receives_[static_cast<std::size_t>(index)].wait([this] { poll_sends(); });
    notify("block arrived");
    return block(layer, index);
}

template <class Device>
KeyValueBlock<Device> ContextExchange<Device>::block(Index layer, Index index) const {
    const Incoming& in = chunks_[chunk_].incoming[static_cast<std::size_t>(index)];
    const auto pair =
        in.kept == none
            ? received(layer, in)
            : kept_.keys_values().fetched(
                  layer, kept_.place(kept_.blocks()[static_cast<std::size_t>(in.kept)]));
    return {pair.k, pair.v, in.block.kv_heads.begin};
}

template <class Device>
void ContextExchange<Device>::end_forward() {
    const PhaseScope waiting(*timer_, Phase::halo_wait);
    for (Request& request : sends_) {
        request.wait();
    }
    sends_.clear();
}

template <class Device>
void ContextExchange<Device>::begin_backward(const Stream<Device>& stream, Index layer) {
    receives_.clear();
    fetch_backward(stream, layer);
    for (const Outgoing& out : chunks_[chunk_].outgoing) {
        const View<Device, float, 1> message(gradients_in_.data() + out.offset,
                                             out.block.elements(shape_.head_dim));
        receives_.push_back(sequence_->receive(stream, message, out.peer, gradient_tag + out.tag));
    }
    if (!sends_gradients()) {
        start_messages();  // nothing else is posted: peers need not wait for this rank's attention
    }
}

template <class Device>
void ContextExchange<Device>::add_kept_gradients(const Stream<Device>& stream, Index layer,
                                                 const KeyValuePair<Device, float>& to) {
    for (const KeptBlock& block : kept_.blocks()) {
        if (block.owner == chunks_[chunk_].shard) {
            const auto collected = kept_.gradients(layer, block);
            accumulate(stream, {.x = collected.k, .out = part(to.k, block.tokens, block.kv_heads)});
            accumulate(stream, {.x = collected.v, .out = part(to.v, block.tokens, block.kv_heads)});
        }
    }
    // A slot may have just been read: only now may its next block start from zero.
    for (const KeptBlock& block : kept_.blocks()) {
        if (block.last_consumer == static_cast<Index>(chunk_)) {
            clear(stream, kept_.gradients(layer, block).flat());
        }
    }
}

template <class Device>
KeyValuePair<Device, float> ContextExchange<Device>::gradient_block(const Stream<Device>& stream,
                                                                    Index layer, Index index) {
    const Incoming& in = chunks_[chunk_].incoming[static_cast<std::size_t>(index)];
    if (in.kept != none) {
        return kept_.gradients(layer, kept_.blocks()[static_cast<std::size_t>(in.kept)]);
    }
    const auto pair =
        KeyValuePair<Device, float>::at(gradients_out_.data() + in.offset, in.block.rows(),
                                        in.block.kv_heads.size() * shape_.head_dim);
    clear(stream, pair.flat());
    return pair;
}

template <class Device>
void ContextExchange<Device>::send_gradient(const Stream<Device>& stream, Index index) {
    const Incoming& in = chunks_[chunk_].incoming[static_cast<std::size_t>(index)];
    if (in.kept != none) {
        return;
    }
    const View<Device, const float, 1> message(gradients_out_.data() + in.offset,
                                               in.block.elements(shape_.head_dim));
    sent_bytes_ += static_cast<double>(message.size() * Index{sizeof(float)});
    sends_.push_back(
        sequence_->send(stream, message, in.peer, gradient_tag + static_cast<int>(index)));
}

template <class Device>
void ContextExchange<Device>::end_backward(const Stream<Device>& stream, Index layer,
                                           const KeyValuePair<Device, float>& to) {
    const auto& outgoing = chunks_[chunk_].outgoing;
    for (std::size_t i = 0; i < outgoing.size(); ++i) {
        {
            const PhaseScope waiting(*timer_, Phase::halo_wait);
            receives_[i].wait([this] { poll_sends(); });
        }
        const Outgoing& out = outgoing[i];
        const auto arrived =
            KeyValuePair<Device, float>::at(gradients_in_.data() + out.offset, out.block.rows(),
                                            out.block.kv_heads.size() * shape_.head_dim);
        auto into_k = to.k;
        auto into_v = to.v;
        if (out.kept != none) {
            const auto kept =
                kept_.gradients(layer, kept_.blocks()[static_cast<std::size_t>(out.kept)]);
            into_k = kept.k;
            into_v = kept.v;
        } else {
            into_k = part(to.k, out.block.tokens, out.block.kv_heads);
            into_v = part(to.v, out.block.tokens, out.block.kv_heads);
        }
        accumulate(stream, {.x = arrived.k, .out = into_k});
        accumulate(stream, {.x = arrived.v, .out = into_v});
    }
    end_forward();
}

LONGLORA_INSTANTIATE(ContextExchange);

}  // namespace longlora
