#pragma once

#include <algorithm>

#include "kernels/cuda/attention_tile.cuh"
#include "kernels/cuda/hopper/warpgroup.cuh"

// The running softmax of a thread's two rows, in base 2, as kernels/cuda/attention_forward.cu has it.
namespace longlora::hopper {

constexpr int forward_keys = 128;  // of a step

// Scores and probabilities of a step, machine::multiply_async's c; and as left operands.
using Scores = float[forward_keys / 2];
using Probabilities = std::uint32_t[forward_keys / 16][4];

struct RunningSoftmax {
    float maximum[2];
    float sum[2];  // of the thread's columns alone
};

// -infinity for keys from end[r] of the step on, r the thread's first or second row.
__device__ inline void hide_keys(Scores& s, const int (&end)[2], int column) {
#pragma unroll
    for (int i = 0; i < forward_keys / 2; ++i) {
        if (i / 4 * 8 + column + i % 2 >= end[i / 2 % 2]) {
            s[i] = -INFINITY;
        }
    }
}

// Of keys that a query does not see, or that are not there: query `row` of the tile sees keys
// j < min(keys, row + diagonal), of which the step's begin at `key`.
__device__ inline void hide_keys(Scores& s, const AttentionTile& tile, int key, int row,
                                 int column) {
    hide_keys(s,
              {std::min(tile.keys, tile.diagonal + row) - key,
               std::min(tile.keys, tile.diagonal + row + 8) - key},
              column);
}

// s becomes 2^(scale s - maximum). The answer: by what to multiply what was summed under the old maximum.
// Where keys may be hidden, a row may have seen none yet.
template <bool may_be_hidden>
__device__ inline void continue_softmax(Scores& s, float scale, RunningSoftmax& state,
                                        float (&rescale)[2]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        float top = -INFINITY;
#pragma unroll
        for (int i = 2 * r; i < forward_keys / 2; i += 4) {
            top = fmaxf(top, fmaxf(s[i], s[i + 1]));
        }
        top = reduce_row(top, [](float a, float b) { return fmaxf(a, b); });
        top = fmaxf(state.maximum[r], top * scale);
        const float base = may_be_hidden && top == -INFINITY ? 0.0F : top;
        rescale[r] = machine::exp2_fast(state.maximum[r] - base);
        state.maximum[r] = top;
        float sum = state.sum[r] * rescale[r];
#pragma unroll
        for (int i = 2 * r; i < forward_keys / 2; i += 4) {
            s[i] = machine::exp2_fast(fmaf(s[i], scale, -base));
            s[i + 1] = machine::exp2_fast(fmaf(s[i + 1], scale, -base));
            sum += s[i] + s[i + 1];
        }
        state.sum[r] = sum;
    }
}

__device__ inline void pack_probabilities(const Scores& s, Probabilities& p) {
#pragma unroll
    for (int i = 0; i < forward_keys / 2; i += 2) {
        p[i / 8][i / 2 % 4] = machine::pack(s[i], s[i + 1]);
    }
}

template <int count>
__device__ void rescale_rows(float (&out)[count], const float (&factor)[2]) {
#pragma unroll
    for (int i = 0; i < count; ++i) {
        out[i] *= factor[i / 2 % 2];
    }
}

// Continues from (out, lse): maximum = lse and sum = 1 stand for all keys seen so far. `out` is not read
// before there were any.
template <int depth>
__device__ RunningSoftmax load_state(const AttentionForward<Cuda>& op, const AttentionTile& tile,
                                     int head, int row, int column, float (&out)[depth / 2]) {
    RunningSoftmax state{{-INFINITY, -INFINITY}, {0, 0}};
#pragma unroll
    for (int i = 0; i < depth / 2; ++i) {
        out[i] = 0;
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const Index query = Index{tile.first_query} + row + 8 * r;
        const float lse = row + 8 * r < tile.queries ? op.lse.row(head)[query] : -INFINITY;
        if (lse != -INFINITY) {
            state.maximum[r] = lse;
            state.sum[r] = column == 0 ? 1.0F : 0.0F;
            const BFloat16* from = op.out.row(query) + head * depth + column;
#pragma unroll
            for (int n = 0; n < depth / 8; ++n) {
                const auto pair = *reinterpret_cast<const Pack<BFloat16, 2>*>(from + 8 * n);
                out[4 * n + 2 * r] = load(&pair[0]);
                out[4 * n + 2 * r + 1] = load(&pair[1]);
            }
        }
    }
    return state;
}

// As if `out` and lse were written to memory and read again: the same bits, whether or not they are.
template <int count>
__device__ inline void restart(RunningSoftmax& state, int column, float (&out)[count]) {
    float factor[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const float sum = reduce_row(state.sum[r], [](float a, float b) { return a + b; });
        factor[r] = sum == 0 ? 0 : 1 / sum;
        state.maximum[r] += log2f(sum);
        state.sum[r] = state.maximum[r] != -INFINITY && column == 0 ? 1.0F : 0.0F;
    }
    rescale_rows(out, factor);
#pragma unroll
    for (int i = 0; i < count; i += 2) {
        const std::uint32_t pair = machine::pack(out[i], out[i + 1]);
        out[i] = to_float(BFloat16{static_cast<std::uint16_t>(pair)});
        out[i + 1] = to_float(BFloat16{static_cast<std::uint16_t>(pair >> 16U)});
    }
}

}  // namespace longlora::hopper
