#include "kernels/cuda/attention_passes.hpp"
#include "kernels/cuda/attention_tile.cuh"

namespace longlora {
namespace {

constexpr int step_keys = 64;

template <int depth>
using ForwardTiles = SharedTiles<depth, 1, step_keys>;  // q; k and v pass by

// The running softmax of the lane's two rows, in base 2; `sum` is that of the lane's columns alone.
struct RunningSoftmax {
    float maximum[2];
    float sum[2];
};

// Continues from (out, lse): maximum = lse and sum = 1 stand for all keys seen so far. `out` is not read
// before there were any.
template <int depth>
__device__ RunningSoftmax load_state(const AttentionForward<Cuda>& op, const AttentionTile& tile,
                                     int head, const LanePlace& lane, Strip<depth>& out) {
    RunningSoftmax state{{-INFINITY, -INFINITY}, {0, 0}};
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const Index query = Index{tile.first_query} + lane.row + 8 * r;
        const bool is_there = lane.row + 8 * r < tile.queries;
        const float lse = is_there ? op.lse.row(head)[query] : -INFINITY;
        if (lse != -INFINITY) {
            state.maximum[r] = lse;
            state.sum[r] = lane.column == 0 ? 1.0F : 0.0F;
            const BFloat16* from = op.out.row(query) + head * depth + lane.column;
#pragma unroll
            for (int n = 0; n < depth / 8; ++n) {
                const auto pair = *reinterpret_cast<const Pack<BFloat16, 2>*>(from + 8 * n);
                out.at[n][2 * r] = load(&pair[0]);
                out.at[n][2 * r + 1] = load(&pair[1]);
            }
        }
    }
    return state;
}

template <int depth>
__device__ void store_state(const AttentionForward<Cuda>& op, const AttentionTile& tile, int head,
                            const LanePlace& lane, const RunningSoftmax& state,
                            const Strip<depth>& out) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const float sum = reduce_row(state.sum[r], [](float a, float b) { return a + b; });
        const float factor = sum == 0 ? 0 : 1 / sum;
        if (lane.row + 8 * r < tile.queries) {
            const Index query = Index{tile.first_query} + lane.row + 8 * r;
            BFloat16* to = op.out.row(query) + head * depth + lane.column;
#pragma unroll
            for (int n = 0; n < depth / 8; ++n) {
                *reinterpret_cast<std::uint32_t*>(to + 8 * n) =
                    machine::pack(out.at[n][2 * r] * factor, out.at[n][2 * r + 1] * factor);
            }
            if (lane.column == 0) {
                op.lse.row(head)[query] = state.maximum[r] + log2f(sum);
            }
        }
    }
}

// s becomes 2^(scale s - maximum); what was summed under the old maximum moves to the new one. Each
// query sees the first key of its item, so that the maximum is finite from the first step on.
template <int depth>
__device__ void continue_softmax(Strip<step_keys>& s, float scale, RunningSoftmax& state,
                                 Strip<depth>& out) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        float top = -INFINITY;
#pragma unroll
        for (int n = 0; n < step_keys / 8; ++n) {
            top = fmaxf(top, fmaxf(s.at[n][2 * r], s.at[n][2 * r + 1]));
        }
        top = reduce_row(top, [](float a, float b) { return fmaxf(a, b); });
        top = fmaxf(state.maximum[r], top * scale);
        const float rescale = machine::exp2_fast(state.maximum[r] - top);
        float sum = state.sum[r] * rescale;
#pragma unroll
        for (int n = 0; n < step_keys / 8; ++n) {
#pragma unroll
            for (int i = 2 * r; i < 2 * r + 2; ++i) {
                s.at[n][i] = machine::exp2_fast(fmaf(s.at[n][i], scale, -top));
                sum += s.at[n][i];
            }
        }
#pragma unroll
        for (int n = 0; n < depth / 8; ++n) {
            out.at[n][2 * r] *= rescale;
            out.at[n][2 * r + 1] *= rescale;
        }
        state.maximum[r] = top;
        state.sum[r] = sum;
    }
}

// A block for 64 queries of one head, a step for 64 keys.
template <int depth>
__global__ void __launch_bounds__(attention_threads, 2)
    attention_forward_kernel(AttentionForward<Cuda> op, AttentionWork work, float scale) {
    const int block = static_cast<int>(blockIdx.x);
    const AttentionTile tile = work.tiles[block / work.heads];
    const int head = tile.first_head + block % work.heads;
    if (head >= tile.first_head + tile.heads) {
        return;
    }
    const ForwardTiles<depth> shared;
    const auto q = shared.own(0);
    copy_rows<attention_tile_rows>(
        q, part_of(op.q, tile.first_query, tile.queries, head * depth, depth));
    const Index kv_column = (head / op.queries_per_kv - op.block.first_head) * depth;
    const auto k = part_of(op.block.k, tile.first_key, tile.keys, kv_column, depth);
    const auto v = part_of(op.block.v, tile.first_key, tile.keys, kv_column, depth);
    const auto start = [&](int step) {
        const int key = step * step_keys;
        const Range keys{key, std::min(key + step_keys, tile.keys)};
        start_step(shared, step, k.rows(keys), v.rows(keys));
    };
    start(0);

    const LanePlace lane;
    Strip<depth> out;
    RunningSoftmax state = load_state(op, tile, head, lane, out);
    const int steps = (tile.keys + step_keys - 1) / step_keys;
    for (int step = 0; step < steps; ++step) {
        machine::wait_for_copies<0>();
        __syncthreads();  // the step is there, and nobody reads the one before any more
        if (step + 1 < steps) {
            start(step + 1);
        }
        auto s = multiply_rows<step_keys>(q, shared.first(step));
        hide_keys(s, tile, step * step_keys, lane);
        continue_softmax(s, scale * log2_e, state, out);
        multiply_add(out, s, shared.second(step));
    }
    store_state(op, tile, head, lane, state, out);
}

}  // namespace

bool attend_by_tensor_cores(const Stream<Cuda>& stream, const AttentionForward<Cuda>& op,
                            const AttentionWork& work) {
    constexpr std::size_t bytes = 16;
    if (!is_aligned(op.q, bytes) || !is_aligned(op.block.k, bytes) ||
        !is_aligned(op.block.v, bytes) || !is_aligned(op.out, bytes)) {
        return false;
    }
    return with_depth(op.head_dim, [&](auto constant) {
        constexpr int depth = decltype(constant)::value;
        launch(stream, attention_forward_kernel<depth>, grid_for(work, ForwardTiles<depth>::bytes),
               op, work, score_scale(depth));
    });
}

}  // namespace longlora
