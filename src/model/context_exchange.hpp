#pragma once

#include <algorithm>
#include <functional>
#include <string_view>
#include <vector>

#include "comm/cuda_communicator.hpp"
#include "core/phase_timer.hpp"
#include "kernels/attention.hpp"
#include "model/kept_context.hpp"

namespace longlora {

enum class Pass {
    keep,     // first pass: forward only, K/V that later chunks need are kept
    compute,  // second pass: forward and backward
};

// Carries left context to where it is needed: K and V forwards, dK and dV back, between the ranks
// that share a sequence and from chunk to chunk. One plan, read in both directions; the same path
// for S2-Attn, its ablations and full attention (mathematics.md, sections 2 and 4).
//
// Messages of a pair are posted in the same order on both sides, as a GPU's need (comm/halo_transport.hpp):
// a phase is a layer of a pass, and in each the consumer goes through its blocks in the plan's order,
// the owner through its peers and, of each, through the blocks in that peer's order. All messages of a
// phase are posted before any is waited for.
template <class Device>
class ContextExchange {
public:
    ContextExchange(Arena<Device>& arena, const ContextShape& shape, Index rank);

    // The communicator is only needed where messages travel, so that a planner can measure without.
    void connect(const Communicator<Device>& sequence, PhaseTimer& timer);

    void begin_chunk(Index chunk, Pass pass);
    const ShardPlan& plan() const { return chunks_[chunk_].plan; }
    Range tokens() const { return shape_.layout.tokens(chunks_[chunk_].shard); }

    // Forward: post messages, attend what is local, then block by block.
    void begin_forward(const Stream<Device>& stream, Index layer,
                       View<Device, const Element<Device>, 2> k,
                       View<Device, const Element<Device>, 2> v);
    KeyValueBlock<Device> wait_block(Index layer, Index block);
    void end_forward();
    // For the last layer of a first pass: only what later chunks need is kept, nothing is sent.
    void keep_only(const Stream<Device>& stream, Index layer,
                   View<Device, const Element<Device>, 2> k,
                   View<Device, const Element<Device>, 2> v);

    // Before attention is computed again.
    void begin_recompute(const Stream<Device>& stream, Index layer) {
        fetch_backward(stream, layer);
    }

    // Backward: the received K/V are still here. Adds to dK, dV what others have computed for this
    // shard's tokens: from kept blocks before any gradient_block(), from peers at the end.
    KeyValueBlock<Device> block(Index layer, Index block) const;
    void begin_backward(const Stream<Device>& stream, Index layer);
    // Whether there is left context, all of other ranks: its gradients may leave before all else is done,
    // add_kept_gradients() too, since no gradient_block() is kept.
    bool has_messages_alone() const {
        const auto& incoming = chunks_[chunk_].incoming;
        return sends_gradients() && std::all_of(incoming.begin(), incoming.end(), is_message);
    }
    void add_kept_gradients(const Stream<Device>& stream, Index layer,
                            const KeyValuePair<Device, float>& to);
    KeyValuePair<Device, float> gradient_block(const Stream<Device>& stream, Index layer,
                                               Index block);
    void send_gradient(const Stream<Device>& stream, Index block);
    void end_backward(const Stream<Device>& stream, Index layer,
                      const KeyValuePair<Device, float>& to);

    // Memory of the host that kept K/V of a GPU take.
    std::size_t host_bytes() const { return kept_.host_bytes(); }

    void start_messages() {  // backward: the gradients of all blocks are posted
        if (sequence_ != nullptr) {
            sequence_->start_messages();
        }
    }
    void poll();  // lets messages make progress between kernels

    double sent_bytes() const { return sent_bytes_; }
    void reset_sent_bytes() { sent_bytes_ = 0; }

    // Tests: called at "send", "own attention done", "block arrived".
    void set_observer(std::function<void(std::string_view)> observer) {
        observer_ = std::move(observer);
    }
    void notify(std::string_view event) const {
        if (observer_) {
            observer_(event);
        }
    }

private:
    static constexpr Index none = -1;

    // A block that this rank needs.
    struct Incoming {
        ContextBlock block;
        int peer;      // sequence rank that owns it; this rank for a kept block
        Index kept;    // place among kept blocks, or none: it comes by message
        Index offset;  // elements in a layer's received K/V (and in the outgoing gradients)
    };
    // A block that a peer needs from this rank.
    struct Outgoing {
        ContextBlock block;
        int peer;
        Index kept;    // or none: from the current shard
        int tag;       // place in the consumer's list
        Index offset;  // elements in the staging memory
    };
    struct ChunkPlan {
        Index shard;
        ShardPlan plan;
        std::vector<Incoming> incoming;
        std::vector<Outgoing> outgoing;
    };

    static bool is_message(const Incoming& in) { return in.kept == none; }
    bool sends_gradients() const {
        const auto& incoming = chunks_[chunk_].incoming;
        return std::any_of(incoming.begin(), incoming.end(), is_message);
    }
    void fetch_backward(const Stream<Device>& stream, Index layer) {
        kept_.keys_values().fetch(stream, layer);
        kept_.keys_values().fetch_ahead(stream, layer - 1);
    }
    void poll_sends();
    ChunkPlan plan_chunk(Index chunk, Index rank) const;
    KeyValuePair<Device, Element<Device>> received(Index layer, const Incoming& in) const;
    Index receive_row(Index layer) const {
        return keeps_received_ && pass_ == Pass::compute ? layer : 0;
    }
    void start_sends(const Stream<Device>& stream, Index layer,
                     View<Device, const Element<Device>, 2> k,
                     View<Device, const Element<Device>, 2> v);
    template <class T>
    View<Device, T, 2> part(View<Device, T, 2> whole, Range tokens, Range heads) const;

    ContextShape shape_;
    bool keeps_received_;
    KeptContext<Device> kept_;
    std::vector<ChunkPlan> chunks_;
    View<Device, Element<Device>, 2> received_;  // (layers or 1, elements)
    View<Device, Element<Device>, 1> staged_;    // packed K/V on their way out
    View<Device, float, 1> gradients_out_;       // dK/dV computed here for others
    View<Device, float, 1> gradients_in_;        // dK/dV that others computed for this rank

    const Communicator<Device>* sequence_ = nullptr;
    PhaseTimer* timer_ = nullptr;
    std::size_t chunk_ = 0;
    Pass pass_ = Pass::compute;
    std::vector<Request> receives_;  // by incoming block (forward) or outgoing block (backward)
    std::vector<Request> sends_;
    double sent_bytes_ = 0;
    std::function<void(std::string_view)> observer_;
};

}  // namespace longlora
