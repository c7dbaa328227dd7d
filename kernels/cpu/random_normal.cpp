#include "kernels/random_normal.hpp"

#include "core/random.hpp"

namespace longlora {

void random_normal(const Stream<Cpu>& stream, const RandomNormal<Cpu>& op) {
    constexpr Index block = 1 << 14;
    parallel_blocks(stream, op.out.size(), block, [&](Range range) {
        for (Index i = range.begin; i < range.end; ++i) {
            op.out[i] = static_cast<float>(op.deviation *
                                           random_normal(op.key, static_cast<std::uint64_t>(i)));
        }
    });
}

}  // namespace longlora
