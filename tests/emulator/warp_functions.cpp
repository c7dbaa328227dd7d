#include "warp_functions.h"

namespace longlora::emulator {

void shuffle(void* const* operands) {
    for (int i = 0; i < warp_lanes; ++i) {
        if (operands[i] != nullptr) {
            auto& mine = *static_cast<Shuffle*>(operands[i]);
            const auto* source = static_cast<const Shuffle*>(operands[mine.source]);
            mine.result = source != nullptr ? source->bits : ~0ULL;
        }
    }
}

void vote(void* const* operands) {
    unsigned ballot = 0;
    unsigned present = 0;
    for (int i = 0; i < warp_lanes; ++i) {
        if (operands[i] != nullptr) {
            present |= 1U << i;
            ballot |= static_cast<const Vote*>(operands[i])->predicate ? 1U << i : 0U;
        }
    }
    for (int i = 0; i < warp_lanes; ++i) {
        if (operands[i] != nullptr) {
            static_cast<Vote*>(operands[i])->ballot = ballot;
            static_cast<Vote*>(operands[i])->present = present;
        }
    }
}

}  // namespace longlora::emulator
