#include "sequence/left_context.hpp"

#include <algorithm>
#include <map>
#include <tuple>

namespace longlora {
namespace {

// Query heads that share one rule: which half-groups look back at the one before them.
struct HeadClass {
    Range heads;
    bool is_shifted;
};

std::vector<HeadClass> head_classes(const Layout& layout, const Heads& heads) {
    std::vector<HeadClass> classes;
    switch (layout.pattern) {
        case Pattern::full:
        case Pattern::local:
            classes = {{{0, heads.query}, false}};
            break;
        case Pattern::shifted:
            classes = {{{0, heads.query}, true}};
            break;
        case Pattern::s2:
            classes = {{{0, heads.query / 2}, false}, {{heads.query / 2, heads.query}, true}};
            break;
    }
    std::erase_if(classes, [](const HeadClass& c) { return c.heads.empty(); });
    return classes;
}

// In half of the heads a half-group sees the whole previous one: the unshifted heads when m is
// odd, the shifted heads when m is even (and m > 0).
bool looks_back(const HeadClass& heads, Index m) {
    return m > 0 && (m % 2 == 1) != heads.is_shifted;
}

// The tokens before `own.begin` that the piece `own` of half-group m sees, causality aside.
Range left_tokens(const Layout& layout, const HeadClass& heads, Index m, Range own) {
    const Index first = looks_back(heads, m) ? (m - 1) * layout.half() : m * layout.half();
    return {first, own.begin};
}

struct BlockKey {
    Index owner;
    Index head;  // first query head of the class
    auto operator<=>(const BlockKey&) const = default;
};

// Collects rectangles by owner and head class; blocks of one class and owner are joined, because
// the pieces of a shard see nested ranges of tokens.
class BlockCollector {
public:
    BlockCollector(const Layout& layout, const Heads& heads, Index shard)
        : layout_(layout), heads_(heads), shard_(shard) {}

    void add(const HeadClass& head_class, Range queries, Range keys) {
        const Index shard_length = layout_.shard_length();
        for (Index owner = keys.begin / shard_length; owner * shard_length < keys.end; ++owner) {
            const Range held = layout_.tokens(owner);
            const Range part{std::max(keys.begin, held.begin), std::min(keys.end, held.end)};
            const auto [place, is_new] = blocks_.try_emplace(
                BlockKey{owner, head_class.heads.begin},
                ContextBlock{owner, shard_, heads_.kv_of(head_class.heads), part, {}});
            Range& tokens = place->second.tokens;
            tokens = {std::min(tokens.begin, part.begin), std::max(tokens.end, part.end)};
            // Absolute for now: the block's first token is known when all pieces are in.
            place->second.items.push_back({head_class.heads, queries, part, false});
        }
    }

    std::vector<ContextBlock> finish() {
        std::vector<ContextBlock> blocks;
        for (auto place = blocks_.rbegin(); place != blocks_.rend(); ++place) {
            ContextBlock block = std::move(place->second);
            for (auto& item : block.items) {
                item.keys = {item.keys.begin - block.tokens.begin,
                             item.keys.end - block.tokens.begin};
            }
            blocks.push_back(std::move(block));
        }
        // A later token in the list is wrap's square: it comes after the shard's own past.
        std::stable_partition(blocks.begin(), blocks.end(),
                              [&](const ContextBlock& b) { return b.owner < shard_; });
        return blocks;
    }

private:
    const Layout& layout_;
    const Heads& heads_;
    Index shard_;
    std::map<BlockKey, ContextBlock> blocks_;
};

// One shard's plan while it is being made.
class ShardPlanner {
public:
    ShardPlanner(const Layout& layout, const Heads& heads, Index shard)
        : layout_(layout), held_(layout.tokens(shard)), blocks_(layout, heads, shard) {}

    // The part `own` of half-group m: its triangle, and the tokens to the left that it sees.
    void add_piece(const HeadClass& heads, Index m, Range own) {
        plan_.triangles.push_back({heads.heads, local(own), local(own), true});
        const Range left = left_tokens(layout_, heads, m, own);
        add_own_rectangle(heads, own, {std::max(left.begin, held_.begin), left.end});
        add_outside(heads, own, {left.begin, std::min(left.end, held_.begin)});
    }

    // wrap: in the shifted heads the first half-group sees the last one, from the future. It never
    // starts before this shard, whose first token lies in the first half-group.
    void add_wrap(const HeadClass& heads, Range own) {
        const Range last{layout_.length - layout_.half(), layout_.length};
        add_own_rectangle(heads, own,
                          {std::max(last.begin, held_.begin), std::min(last.end, held_.end)});
        add_outside(heads, own, {std::max(last.begin, held_.end), last.end});
    }

    ShardPlan finish() {
        plan_.blocks = blocks_.finish();
        return std::move(plan_);
    }

private:
    Range local(Range tokens) const {
        return {tokens.begin - held_.begin, tokens.end - held_.begin};
    }
    void add_own_rectangle(const HeadClass& heads, Range own, Range keys) {
        if (!keys.empty()) {
            plan_.rectangles.push_back({heads.heads, local(own), local(keys), false});
        }
    }
    void add_outside(const HeadClass& heads, Range own, Range keys) {
        if (!keys.empty()) {
            blocks_.add(heads, local(own), keys);
        }
    }

    const Layout& layout_;
    Range held_;
    ShardPlan plan_;
    BlockCollector blocks_;
};

}  // namespace

std::vector<AttentionItem> ShardPlan::own_items() const {
    std::vector<AttentionItem> items = triangles;
    items.insert(items.end(), rectangles.begin(), rectangles.end());
    return items;
}

ShardPlan plan_shard(const Layout& layout, const Heads& heads, Index shard) {
    const Range held = layout.tokens(shard);
    const Index half = layout.half();
    const bool wraps = layout.boundary == Boundary::wrap && layout.pattern != Pattern::full;
    ShardPlanner planner(layout, heads, shard);
    for (const HeadClass& head_class : head_classes(layout, heads)) {
        for (Index m = held.begin / half; m * half < held.end; ++m) {
            const Range own{std::max(held.begin, m * half), std::min(held.end, (m + 1) * half)};
            planner.add_piece(head_class, m, own);
            if (wraps && m == 0 && head_class.is_shifted) {
                planner.add_wrap(head_class, own);
            }
        }
    }
    return planner.finish();
}

Traffic training_traffic(const Layout& layout, const Heads& heads, Index head_dim, Index layers) {
    Traffic traffic;
    for (Index shard = 0; shard < layout.shards(); ++shard) {
        for (const ContextBlock& block : plan_shard(layout, heads, shard).blocks) {
            if (layout.rank_of(block.owner) == layout.rank_of(shard)) {
                continue;
            }
            const auto elements = static_cast<double>(block.elements(head_dim));
            const bool is_last_chunk = layout.chunk_of(shard) == layout.chunks - 1;
            const Index first_pass = is_last_chunk ? 0 : layers - 1;
            traffic.forward += elements * static_cast<double>(first_pass + layers);
            traffic.backward += elements * static_cast<double>(layers);
        }
    }
    return traffic;
}

double visible_pairs(const Layout& layout, const Heads& heads) {
    double pairs = 0;
    const auto add = [&](const AttentionItem& item) {
        const auto rows = static_cast<double>(item.queries.size());
        const auto keys = item.is_causal ? (rows + 1) / 2 : static_cast<double>(item.keys.size());
        pairs += static_cast<double>(item.heads.size()) * rows * keys;
    };
    for (Index shard = 0; shard < layout.shards(); ++shard) {
        const ShardPlan plan = plan_shard(layout, heads, shard);
        std::for_each(plan.triangles.begin(), plan.triangles.end(), add);
        std::for_each(plan.rectangles.begin(), plan.rectangles.end(), add);
        for (const auto& block : plan.blocks) {
            std::for_each(block.items.begin(), block.items.end(), add);
        }
    }
    return pairs;
}

}  // namespace longlora
