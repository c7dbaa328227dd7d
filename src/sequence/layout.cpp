#include "sequence/layout.hpp"

#include "core/error.hpp"

namespace longlora {
namespace {

std::string text(Index value) { return std::to_string(value); }

}  // namespace

void check_layout(const Layout& layout) {
    require(layout.length > 0, "sequence.length must be positive");
    require(layout.length % layout.shards() == 0,
            "sequence.length " + text(layout.length) + " does not divide into " +
                text(layout.chunks) + " chunks x " + text(layout.ranks) +
                " sequence ranks; choose a length that is a multiple of " + text(layout.shards()) +
                ", or other sequence.chunks or parallel.sequence");
    if (layout.pattern != Pattern::full) {
        require(layout.group > 0 && layout.group % 2 == 0,
                "attention.group " + text(layout.group) +
                    " must be even and positive, because half of the heads are shifted by half a "
                    "group");
        require(layout.length % layout.half() == 0,
                "sequence.length " + text(layout.length) +
                    " must be a multiple of half of attention.group (" + text(layout.half()) + ")");
    }
    if (layout.boundary == Boundary::wrap && layout.pattern != Pattern::full) {
        require(layout.chunks == 1,
                "attention.boundary wrap lets the first tokens see the last ones, so it cannot be "
                "streamed: set sequence.chunks to 1, or attention.boundary to truncate");
        require(
            layout.length % layout.group == 0,
            "attention.boundary wrap needs sequence.length to be a multiple of attention.group (" +
                text(layout.group) + ")");
    }
}

}  // namespace longlora
