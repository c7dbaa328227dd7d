#pragma once

#include "sequence/layout.hpp"

// Who sees whom, said pair by pair: mathematics.md, section 1. What the plan says in rectangles is
// held against this.
namespace longlora::test {

inline bool is_shifted(const Layout& layout, const Heads& heads, Index head) {
    return layout.pattern == Pattern::shifted ||
           (layout.pattern == Pattern::s2 && head >= heads.query / 2);
}

// j <= p and group_q(j) == group_q(p). With wrap the original's way, which is written differently:
// the ring rolled by h, then plain groups.
inline bool is_visible(const Layout& layout, bool shifted, Index p, Index j) {
    if (layout.pattern == Pattern::full) {
        return j <= p;
    }
    const Index half = layout.group / 2;
    if (shifted && layout.boundary == Boundary::wrap) {
        const auto rolled = [&](Index t) { return (t - half + layout.length) % layout.length; };
        return rolled(j) <= rolled(p) && rolled(j) / layout.group == rolled(p) / layout.group;
    }
    const auto group = [&](Index t) { return (shifted ? t + half : t) / layout.group; };
    return j <= p && group(j) == group(p);
}

}  // namespace longlora::test
