#pragma once

#include <cmath>
#include <complex>
#include <limits>
#include <numbers>
#include <vector>

#include "core/view.hpp"
#include "sequence/attention_item.hpp"

namespace longlora::reference {

// A block of keys and values as the kernels see it: some K/V heads, and the visible pairs.
struct AttentionBlock {
    Index keys;
    Range kv_heads;
    std::vector<AttentionItem> items;

    Index columns(Index head_dim) const { return kv_heads.size() * head_dim; }

    bool sees(Index head, Index query, Index key) const {
        for (const AttentionItem& item : items) {
            const Index i = query - item.queries.begin;
            const Index j = key - item.keys.begin;
            const bool is_inside = head >= item.heads.begin && head < item.heads.end && i >= 0 &&
                                   query < item.queries.end && j >= 0 && key < item.keys.end;
            if (is_inside && (!item.is_causal || j <= i)) {
                return true;
            }
        }
        return false;
    }
};

struct AttentionCase {
    Index tokens;
    Index heads;
    Index kv_heads;
    Index head_dim;
    std::vector<AttentionBlock> blocks;

    Index queries_per_kv() const { return heads / kv_heads; }
    Index columns() const { return heads * head_dim; }
};

template <class S>
struct AttentionInputs {
    std::vector<S> q;               // (T, H D)
    std::vector<std::vector<S>> k;  // of each block: (keys, heads in the block * D)
    std::vector<std::vector<S>> v;
};

template <class S>
struct AttentionOutputs {
    std::vector<S> out;    // (T, H D)
    std::vector<S> lse;    // (H, T), base 2
    std::vector<S> delta;  // (H, T), where a gradient was asked for
};

// One visible pair: where its row of q, k and v begins.
struct AttentionPair {
    std::size_t block;
    std::size_t q;
    std::size_t kv;
};

// Calls body(pair) for each key that a query row sees, in any block.
template <class Body>
void for_pairs(const AttentionCase& problem, Index head, Index query, const Body& body) {
    const auto q = static_cast<std::size_t>(query * problem.columns() + head * problem.head_dim);
    for (std::size_t b = 0; b < problem.blocks.size(); ++b) {
        const AttentionBlock& block = problem.blocks[b];
        const Index kv_head = head / problem.queries_per_kv() - block.kv_heads.begin;
        for (Index key = 0; key < block.keys; ++key) {
            if (block.sees(head, query, key)) {
                const Index kv = key * block.columns(problem.head_dim) + kv_head * problem.head_dim;
                body(AttentionPair{b, q, static_cast<std::size_t>(kv)});
            }
        }
    }
}

template <class S>
S dot_product(const std::vector<S>& a, std::size_t i, const std::vector<S>& b, std::size_t j,
              Index size) {
    S sum = 0;
    for (std::size_t d = 0; d < static_cast<std::size_t>(size); ++d) {
        sum += a[i + d] * b[j + d];
    }
    return sum;
}

template <class S>
void add_multiple(S factor, const std::vector<S>& from, std::size_t i, std::vector<S>& to,
                  std::size_t j, Index size) {
    for (std::size_t d = 0; d < static_cast<std::size_t>(size); ++d) {
        to[j + d] += factor * from[i + d];
    }
}

template <class S>
S score(const AttentionCase& problem, const AttentionInputs<S>& in, const AttentionPair& pair) {
    const S product = dot_product(in.q, pair.q, in.k[pair.block], pair.kv, problem.head_dim);
    return product / S(std::sqrt(static_cast<double>(problem.head_dim)));
}

// softmax over all visible keys of all blocks at once
template <class S>
AttentionOutputs<S> attention(const AttentionCase& problem, const AttentionInputs<S>& in) {
    AttentionOutputs<S> result;
    result.out.resize(in.q.size());
    for (Index head = 0; head < problem.heads; ++head) {
        for (Index t = 0; t < problem.tokens; ++t) {
            auto top = std::real(S(-std::numeric_limits<float>::infinity()));
            for_pairs(problem, head, t, [&](const AttentionPair& pair) {
                top = std::max(top, std::real(score(problem, in, pair)));
            });
            S sum = 0;
            std::vector<S> row(static_cast<std::size_t>(problem.head_dim));
            for_pairs(problem, head, t, [&](const AttentionPair& pair) {
                const S p = std::exp(score(problem, in, pair) - top);
                sum += p;
                add_multiple(p, in.v[pair.block], pair.kv, row, 0, problem.head_dim);
            });
            const bool sees_any = std::isfinite(top);
            const Index first = t * problem.columns() + head * problem.head_dim;
            result.lse.push_back(sees_any ? (std::log(sum) + top) / S(std::numbers::ln2) : S(top));
            if (sees_any) {
                add_multiple(S(1) / sum, row, 0, result.out, static_cast<std::size_t>(first),
                             problem.head_dim);
            }
        }
    }
    return result;
}

// The formulas of kernels/attention.hpp; the gradients have the shapes of the inputs.
template <class S>
AttentionInputs<S> attention_backward(const AttentionCase& problem, const AttentionInputs<S>& in,
                                      AttentionOutputs<S>& result, const std::vector<S>& d_out) {
    AttentionInputs<S> d{std::vector<S>(in.q.size()), {}, {}};
    for (const std::vector<S>& k : in.k) {
        d.k.emplace_back(k.size());
        d.v.emplace_back(k.size());
    }
    const Index size = problem.head_dim;
    const S scale = S(1 / std::sqrt(static_cast<double>(size)));
    result.delta.clear();
    for (Index head = 0; head < problem.heads; ++head) {
        for (Index t = 0; t < problem.tokens; ++t) {
            const auto first = static_cast<std::size_t>(t * problem.columns() + head * size);
            const S delta = dot_product(d_out, first, result.out, first, size);
            const S lse = result.lse[static_cast<std::size_t>(head * problem.tokens + t)];
            result.delta.push_back(delta);
            for_pairs(problem, head, t, [&](const AttentionPair& pair) {
                const S p = std::exp(score(problem, in, pair) - lse * S(std::numbers::ln2));
                const S d_p = dot_product(d_out, pair.q, in.v[pair.block], pair.kv, size);
                const S d_s = p * (d_p - delta) * scale;
                add_multiple(p, d_out, pair.q, d.v[pair.block], pair.kv, size);
                add_multiple(d_s, in.k[pair.block], pair.kv, d.q, pair.q, size);
                add_multiple(d_s, in.q, pair.q, d.k[pair.block], pair.kv, size);
            });
        }
    }
    return d;
}

}  // namespace longlora::reference
