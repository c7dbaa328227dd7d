#pragma once

#include <limits>
#include <string>
#include <vector>

#include "cuda/device_matrix.hpp"
#include "kernels/attention.hpp"
#include "reference/attention.hpp"
#include "sequence/left_context.hpp"

// Attention's problems, their operands on the host and on a device, and the calls that solve them.
namespace longlora::cuda_test {

using reference::AttentionBlock;
using reference::AttentionCase;

// What one shard attends, call by call: a block for each, also for the two calls with its own keys.
inline AttentionCase case_of(const Layout& layout, const Heads& heads, Index shard,
                             Index head_dim) {
    const ShardPlan plan = plan_shard(layout, heads, shard);
    const Index tokens = layout.shard_length();
    AttentionCase problem{tokens, heads.query, heads.kv, head_dim, {}};
    problem.blocks.push_back({tokens, {0, heads.kv}, plan.triangles});
    problem.blocks.push_back({tokens, {0, heads.kv}, plan.rectangles});
    for (const ContextBlock& block : plan.blocks) {
        problem.blocks.push_back({block.rows(), block.kv_heads, block.items});
    }
    return problem;
}

inline AttentionCase triangle(Index tokens, Index heads, Index kv_heads, Index head_dim) {
    const AttentionItem item{{0, heads}, {0, tokens}, {0, tokens}, true};
    return {tokens, heads, kv_heads, head_dim, {{tokens, {0, kv_heads}, {item}}}};
}

// Items of one call that follow one another in the same rows, and K/V heads that both classes read.
inline AttentionCase overlapping(Index half, Index head_dim) {
    const Range unshifted{0, 4};
    const Range shifted{4, 9};
    const Range first{0, half};
    const Range second{half, 2 * half};
    const std::vector<AttentionItem> items = {
        {unshifted, second, first, false}, {unshifted, first, first, true},
        {unshifted, second, second, true}, {shifted, first, first, true},
        {shifted, second, second, true},   {{3, 5}, first, second, false}};
    return {2 * half, 9, 3, head_dim, {{2 * half, {0, 3}, items}}};
}

struct Problem {
    std::string name;
    AttentionCase attention;
    Place place = {};
};

// Places of gap 8 and lead 16 allow accesses of 16 bytes in both types, 1 and 3 do not.
inline std::vector<Problem> problems() {
    using enum Pattern;
    constexpr Place aligned{8, 16};
    constexpr Place odd{1, 3};
    const Layout pairs{.length = 6, .group = 2, .pattern = s2};
    const Layout fives{.length = 30, .group = 10, .ranks = 2, .pattern = s2};
    const Layout wrapped{
        .length = 96, .group = 32, .ranks = 2, .pattern = s2, .boundary = Boundary::wrap};
    const Layout unaligned{.length = 96, .group = 32, .ranks = 4, .pattern = s2};
    const Layout wide{.length = 256, .group = 128, .ranks = 2, .pattern = s2};
    const Layout hundreds{.length = 400, .group = 200, .ranks = 2, .pattern = shifted};
    const Layout locals{.length = 240, .group = 80, .ranks = 2, .pattern = local};
    const Layout fulls{.length = 201, .ranks = 3, .pattern = full};
    const Layout tiles{.length = 512, .group = 256, .ranks = 2, .pattern = s2};
    const Layout tails{.length = 600, .group = 300, .ranks = 2, .pattern = s2};
    return {{"h = 1", case_of(pairs, {4, 2}, 0, 16)},
            {"h = 5, T = 15", case_of(fives, {9, 3}, 1, 16), aligned},
            {"h = 5, D = 8", case_of(fives, {9, 3}, 1, 8), aligned},
            {"odd addresses", case_of(fives, {3, 1}, 1, 32), odd},
            {"h = 16, wrap", case_of(wrapped, {4, 2}, 0, 64)},
            {"h = 16, T = 24", case_of(unaligned, {4, 4}, 2, 64), aligned},
            {"h = 64, D = 128", case_of(wide, {3, 1}, 1, 128)},
            {"h = 100, shifted", case_of(hundreds, {4, 2}, 1, 16)},
            {"h = 40, local", case_of(locals, {3, 1}, 0, 48), aligned},
            {"full, T = 67", case_of(fulls, {2, 1}, 2, 16)},
            {"several items in a row", overlapping(33, 16)},
            {"D = 40", triangle(70, 2, 1, 40)},
            {"D = 80", triangle(130, 2, 1, 80)},
            {"D = 96", triangle(65, 1, 1, 96)},
            {"D = 112", triangle(66, 1, 1, 112)},
            {"D = 160", triangle(20, 1, 1, 160)},
            {"h = 128, D = 128", case_of(tiles, {3, 1}, 1, 128), aligned},
            {"h = 150, D = 64", case_of(tails, {3, 1}, 1, 64)},
            {"T = 300, D = 128", triangle(300, 1, 1, 128)},
            {"several items in a row, D = 64", overlapping(131, 64)},
            {"one token", triangle(1, 1, 1, 128)},
            {"nothing", {5, 2, 1, 16, {{5, {0, 1}, {}}}}}};
}

inline Matrix filled(Index rows, Index columns, float value) {
    Matrix matrix(rows, columns);
    for (Index r = 0; r < rows; ++r) {
        std::fill_n(matrix.view().row(r), columns, value);
    }
    return matrix;
}

// All operands, as a kernel of the CPU takes them; inputs are what an S can hold. Results begin as NaN,
// gradients as something to add to.
struct HostArrays {
    template <class S>
    static HostArrays random(const AttentionCase& problem) {
        constexpr float nan = std::numeric_limits<float>::quiet_NaN();
        const auto inputs = [&](std::uint64_t key, Index rows, Index columns) {
            return random_matrix<S>(key, {rows, columns});
        };
        HostArrays arrays{.q = inputs(100, problem.tokens, problem.columns()),
                          .d_out = inputs(101, problem.tokens, problem.columns()),
                          .k = {},
                          .v = {},
                          .out = filled(problem.tokens, problem.columns(), nan),
                          .lse = filled(problem.heads, problem.tokens, nan),
                          .delta = filled(problem.heads, problem.tokens, nan),
                          .d_q = Matrix::random(102, problem.tokens, problem.columns()),
                          .d_k = {},
                          .d_v = {}};
        std::uint64_t key = 110;
        for (const AttentionBlock& block : problem.blocks) {
            const Index columns = block.columns(problem.head_dim);
            arrays.k.push_back(inputs(key++, block.keys, columns));
            arrays.v.push_back(inputs(key++, block.keys, columns));
            arrays.d_k.push_back(Matrix::random(key++, block.keys, columns));
            arrays.d_v.push_back(Matrix::random(key++, block.keys, columns));
        }
        return arrays;
    }

    Matrix q, d_out;
    std::vector<Matrix> k, v;
    Matrix out, lse, delta, d_q;
    std::vector<Matrix> d_k, d_v;
};

// The same on the device.
template <class Device>
struct DeviceArrays {
    using S = Element<Device>;

    DeviceArrays(const Stream<Device>& stream, const HostArrays& host, Place place)
        : q(stream, host.q, place),
          d_out(stream, host.d_out, place),
          out(stream, host.out, place),
          lse(stream, host.lse, place),
          delta(stream, host.delta, place),
          d_q(stream, host.d_q, place) {
        for (std::size_t b = 0; b < host.k.size(); ++b) {
            k.emplace_back(stream, host.k[b], place);
            v.emplace_back(stream, host.v[b], place);
            d_k.emplace_back(stream, host.d_k[b], place);
            d_v.emplace_back(stream, host.d_v[b], place);
        }
    }

    bool are_intact() const {
        bool result = q.is_intact() && d_out.is_intact() && out.is_intact() && lse.is_intact() &&
                      delta.is_intact() && d_q.is_intact();
        for (std::size_t b = 0; b < k.size(); ++b) {
            result = result && k[b].is_intact() && v[b].is_intact() && d_k[b].is_intact() &&
                     d_v[b].is_intact();
        }
        return result;
    }

    DeviceMatrix<Device, S> q, d_out;
    std::vector<DeviceMatrix<Device, S>> k, v;
    DeviceMatrix<Device, S> out;
    DeviceMatrix<Device, float> lse, delta, d_q;
    std::vector<DeviceMatrix<Device, float>> d_k, d_v;
};

template <class Device, class Arrays>
KeyValueBlock<Device> block_of(const AttentionCase& problem, Arrays& at, std::size_t b) {
    return {at.k[b].view(), at.v[b].view(), problem.blocks[b].kv_heads.begin};
}

// Calls body(items) for the calls to make.
template <class Body>
void for_calls(const AttentionBlock& block, bool one_item_a_call, const Body& body) {
    const std::span<const AttentionItem> items(block.items);
    if (!one_item_a_call) {
        body(items);
        return;
    }
    for (std::size_t i = 0; i < items.size(); ++i) {
        body(items.subspan(i, 1));
    }
}

template <class Device, class Arrays>
void run_forward(const Stream<Device>& stream, const AttentionCase& problem, Arrays& at,
                 bool one_item_a_call = false) {
    attention_reset(stream, AttentionReset<Device>{.out = at.out.view(), .lse = at.lse.view()});
    for (std::size_t b = 0; b < problem.blocks.size(); ++b) {
        for_calls(problem.blocks[b], one_item_a_call, [&](auto items) {
            attention_forward(stream,
                              AttentionForward<Device>{.q = at.q.view(),
                                                       .block = block_of<Device>(problem, at, b),
                                                       .items = items,
                                                       .head_dim = problem.head_dim,
                                                       .queries_per_kv = problem.queries_per_kv(),
                                                       .out = at.out.view(),
                                                       .lse = at.lse.view()});
        });
    }
}

template <class Device, class Arrays>
void run_delta(const Stream<Device>& stream, Arrays& at) {
    attention_delta(stream,
                    AttentionDelta<Device>{
                        .d_out = at.d_out.view(), .out = at.out.view(), .delta = at.delta.view()});
}

struct BackwardCalls {
    bool one_item_a_call = false;
    bool overwrites = false;
};

template <class Device, class Arrays>
void run_backward(const Stream<Device>& stream, const AttentionCase& problem, Arrays& at,
                  const BackwardCalls& calls = {}) {
    for (std::size_t b = problem.blocks.size(); b-- > 0;) {
        for_calls(problem.blocks[b], calls.one_item_a_call, [&](auto items) {
            attention_backward(stream,
                               AttentionBackward<Device>{.q = at.q.view(),
                                                         .block = block_of<Device>(problem, at, b),
                                                         .items = items,
                                                         .head_dim = problem.head_dim,
                                                         .queries_per_kv = problem.queries_per_kv(),
                                                         .d_out = at.d_out.view(),
                                                         .lse = at.lse.view(),
                                                         .delta = at.delta.view(),
                                                         .d_q = at.d_q.view(),
                                                         .d_k = at.d_k[b].view(),
                                                         .d_v = at.d_v[b].view(),
                                                         .overwrites = calls.overwrites});
        });
    }
}

}  // namespace longlora::cuda_test
