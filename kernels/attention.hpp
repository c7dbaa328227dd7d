#pragma once

#include <span>
#include <type_traits>

#include "core/stream.hpp"
#include "sequence/attention_item.hpp"

// Attention over a list of items (triangles and rectangles of visible pairs) against one block of
// keys and values: the shard's own, or a block of its left context. Calls for several blocks
// continue one running softmax, so the result does not depend on where the K/V came from:
//
//     S = q k' / sqrt(D)     l = log sum_j exp(S_j)     out = sum_j exp(S_j - l) v_j
//     (out, l) <- merge((out, l), block),   l = log(exp(l) + exp(l_block))
//
// l is kept in base 2: lse[head, t] = log2 sum_j 2^(S_j log2(e)); -infinity: no key seen yet.
// Query head h reads K/V head h div (H / Hkv); the block may hold a subset of the K/V heads.
namespace longlora {

template <class Device>
struct KeyValueBlock {
    View<Device, const Element<Device>, 2> k;  // (keys, heads in the block * D), after RoPE
    View<Device, const Element<Device>, 2> v;  // (keys, heads in the block * D)
    Index first_head = 0;                      // K/V head of the block's first D columns
};

template <class Device>
struct AttentionForward {
    View<Device, const Element<Device>, 2> q;  // (T, H D), after RoPE
    KeyValueBlock<Device> block;
    std::span<const AttentionItem> items;
    Index head_dim;                        // D
    Index queries_per_kv;                  // H / Hkv
    View<Device, Element<Device>, 2> out;  // (T, H D)   continued
    View<Device, float, 2> lse;            // (H, T)     continued
};

// out = 0, lse = -infinity: before a shard's first block.
template <class Device>
struct AttentionReset {
    View<Device, Element<Device>, 2> out;
    View<Device, float, 2> lse;
};

// delta[h,t] = sum_d d_out[t,h,d] out[t,h,d]
template <class Device>
struct AttentionDelta {
    View<Device, const Element<Device>, 2> d_out;  // (T, H D)
    View<Device, const Element<Device>, 2> out;    // (T, H D) the merged result
    View<Device, float, 2> delta;                  // (H, T)
};

// P = exp(S - l)     dV += P' dO     dS = P (dO V' - delta) / sqrt(D)     dQ += dS K     dK += dS' Q
// with the merged l and delta, block by block; a K/V head sums over its H / Hkv query heads.
template <class Device>
struct AttentionBackward {
    View<Device, const Element<Device>, 2> q;  // (T, H D)
    KeyValueBlock<Device> block;
    std::span<const AttentionItem> items;
    Index head_dim;
    Index queries_per_kv;
    View<Device, const Element<Device>, 2> d_out;  // (T, H D)
    View<Device, const float, 2> lse;              // (H, T)
    View<Device, const float, 2> delta;            // (H, T)
    View<Device, float, 2> d_q;                    // (T, H D) accumulated
    View<Device, float, 2> d_k;                    // like block.k, accumulated
    View<Device, float, 2> d_v;                    // like block.v, accumulated
    // What gradients held does not count; the items write to each place of them.
    bool overwrites = false;  // where attention_overwrites<Device>
};

// Each sum is formed in registers and meets memory once: two calls give the same bits in any order (but for
// subnormal numbers, which a GPU's additions in memory flush), and the first may store. On the CPU sums
// grow in memory.
template <class Device>
constexpr bool attention_overwrites = !std::is_same_v<Device, Cpu>;

// Items of one call that add to the same queries may be attended in one go, as Hopper's kernels do: cheaper
// together.
template <class Device>
constexpr bool attention_joins = !std::is_same_v<Device, Cpu>;

void attention_reset(const Stream<Cpu>& stream, const AttentionReset<Cpu>& op);
template <class S>
void attention_reset(const Stream<CudaDevice<S>>& stream, const AttentionReset<CudaDevice<S>>& op);
void attention_forward(const Stream<Cpu>& stream, const AttentionForward<Cpu>& op);
template <class S>
void attention_forward(const Stream<CudaDevice<S>>& stream,
                       const AttentionForward<CudaDevice<S>>& op);
void attention_delta(const Stream<Cpu>& stream, const AttentionDelta<Cpu>& op);
template <class S>
void attention_delta(const Stream<CudaDevice<S>>& stream, const AttentionDelta<CudaDevice<S>>& op);
void attention_backward(const Stream<Cpu>& stream, const AttentionBackward<Cpu>& op);
template <class S>
void attention_backward(const Stream<CudaDevice<S>>& stream,
                        const AttentionBackward<CudaDevice<S>>& op);

}  // namespace longlora
