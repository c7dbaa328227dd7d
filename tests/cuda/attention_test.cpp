#include <array>
#include <map>

#include "cuda/attention_case.hpp"
#include "kernels/cuda/attention_choice.hpp"
#include "kernels/cuda/attention_passes.hpp"
#include "kernels/elementwise.hpp"
#ifdef LONGLORA_CUDA_EMULATED
#include "emulator.hpp"
#endif

using namespace longlora;
using namespace longlora::cuda_test;

namespace {

// A tensor core's operands P and dS are rounded to bfloat16, by 2^-9 of themselves at most: measured
// with exact sums, gradients are off by up to 2e-3 of the largest, out by 3e-3 with its own roundings,
// one a call. Twice that is allowed. Where the plain kernel computes, sums are float.
template <class Device>
double tolerance(const AttentionCase& problem) {
    const bool is_plain =
        std::is_same_v<Device, CudaFloat> || problem.head_dim % 16 != 0 || problem.head_dim > 128;
    return is_plain ? 1e-5 : 4e-3;
}
template <class Device>
constexpr double out_tolerance = std::is_same_v<Device, CudaFloat> ? 1e-5 : 6e-3;

// Whose kernels a test is about; those that the device does not have are left to the next.
constexpr std::array<AttentionKernels, 3> all_kernels = {
    AttentionKernels::automatic, AttentionKernels::hopper_in_turn, AttentionKernels::tensor_cores};

class Choice {
public:
    explicit Choice(AttentionKernels kernels) { choose_attention_kernels(kernels); }
    ~Choice() { choose_attention_kernels(AttentionKernels::automatic); }
};

// Another order than before; on a GPU it is another one each time.
void shuffle_threads() {
#ifdef LONGLORA_CUDA_EMULATED
    emulator::set_order(7);
#endif
}

}  // namespace

BOOST_AUTO_TEST_CASE_TEMPLATE(forward_agrees_with_the_cpu, Device, Devices) {
    const Stream<Device> stream;
    for (const auto& [name, problem, place] : problems()) {
        HostArrays expected = HostArrays::random<Element<Device>>(problem);
        const HostArrays inputs = expected;
        run_forward(Stream<Cpu>(), problem, expected);
        for (const AttentionKernels kernels : all_kernels) {
            const Choice choice(kernels);
            if (kernels == AttentionKernels::hopper_in_turn && !may_use_hopper()) {
                continue;
            }
            DeviceArrays<Device> actual(stream, inputs, place);
            run_forward(stream, problem, actual);
            require_near(name + ", out", actual.out.values(), expected.out.values<float>(),
                         out_tolerance<Device>);
            std::vector<float> lse = actual.lse.values();
            std::vector<float> expected_lse = expected.lse.values<float>();
            for (std::size_t i = 0; i < lse.size(); ++i) {  // -infinity where nothing was seen
                if (lse[i] == expected_lse[i]) {
                    lse[i] = expected_lse[i] = 0;
                }
            }
            require_near(name + ", lse", lse, expected_lse);
            BOOST_TEST(actual.are_intact(), name);
        }
    }
}

BOOST_AUTO_TEST_CASE(hopper_takes_what_suits_it) {
    const Stream<Cuda> stream;
    if (!may_use_hopper()) {
        return;
    }
    const auto takes = [&](Index head_dim, Place place) {
        const AttentionCase problem = triangle(3, 2, 1, head_dim);
        DeviceArrays<Cuda> at(stream, HostArrays::random<BFloat16>(problem), place);
        return hopper::attend(stream,
                              AttentionForward<Cuda>{.q = at.q.view(),
                                                     .block = block_of<Cuda>(problem, at, 0),
                                                     .items = problem.blocks[0].items,
                                                     .head_dim = head_dim,
                                                     .queries_per_kv = problem.queries_per_kv(),
                                                     .out = at.out.view(),
                                                     .lse = at.lse.view()},
                              true);
    };
    BOOST_TEST(takes(64, {}));
    BOOST_TEST(takes(128, {8, 16}));
    BOOST_TEST(!takes(128, {1, 0}));
    BOOST_TEST(!takes(64, {0, 4}));
    BOOST_TEST(!takes(96, {}));
    BOOST_TEST(!takes(16, {}));
}

// Whether products and softmax overlap decides what runs beside what, not what is computed.
BOOST_AUTO_TEST_CASE(overlap_changes_no_bit) {
    const Stream<Cuda> stream;
    for (const auto& [name, problem, place] : problems()) {
        const auto host = HostArrays::random<BFloat16>(problem);
        const auto run = [&](AttentionKernels kernels) {
            const Choice choice(kernels);
            DeviceArrays<Cuda> at(stream, host, place);
            run_forward(stream, problem, at);
            return std::pair(floats(at.out.values()), at.lse.values());
        };
        BOOST_TEST((run(AttentionKernels::hopper) == run(AttentionKernels::hopper_in_turn)), name);
    }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(delta_agrees_with_the_cpu, Device, Devices) {
    const Stream<Device> stream;
    for (const auto& [name, problem, place] : problems()) {
        HostArrays expected = HostArrays::random<Element<Device>>(problem);
        expected.out = random_matrix<Element<Device>>(109, {problem.tokens, problem.columns()});
        DeviceArrays<Device> actual(stream, expected, place);
        run_delta(Stream<Cpu>(), expected);
        run_delta(stream, actual);
        require_near(name + ", delta", actual.delta.values(), expected.delta.values<float>());
        BOOST_TEST(actual.are_intact(), name);
    }
}

// Both with the CPU's lse and delta, so that only backward is compared.
BOOST_AUTO_TEST_CASE_TEMPLATE(backward_agrees_with_the_cpu, Device, Devices) {
    const Stream<Device> stream;
    for (const auto& [name, problem, place] : problems()) {
        HostArrays expected = HostArrays::random<Element<Device>>(problem);
        run_forward(Stream<Cpu>(), problem, expected);
        run_delta(Stream<Cpu>(), expected);
        DeviceArrays<Device> actual(stream, expected, place);
        run_backward(Stream<Cpu>(), problem, expected);
        run_backward(stream, problem, actual);
        const double share = tolerance<Device>(problem);
        require_near(name + ", d_q", actual.d_q.values(), expected.d_q.values<float>(), share);
        for (std::size_t b = 0; b < problem.blocks.size(); ++b) {
            const std::string block = name + ", block " + std::to_string(b);
            require_near(block + ", d_k", actual.d_k[b].values(), expected.d_k[b].values<float>(),
                         share);
            require_near(block + ", d_v", actual.d_v[b].values(), expected.d_v[b].values<float>(),
                         share);
        }
        BOOST_TEST(actual.are_intact(), name);
    }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(neither_threads_nor_calls_change_a_bit, Device, Devices) {
    const Stream<Device> stream;
    for (const auto& [name, problem, place] : problems()) {
        const auto host = HostArrays::random<Element<Device>>(problem);
        const auto run = [&](bool one_item_a_call) {
            DeviceArrays<Device> at(stream, host, place);
            run_forward(stream, problem, at, one_item_a_call);
            run_delta(stream, at);
            run_backward(stream, problem, at, {.one_item_a_call = one_item_a_call});
            return at;
        };
        const auto first = run(false);
        shuffle_threads();
        for (const bool one_item_a_call : {false, true}) {
            const auto second = run(one_item_a_call);
            BOOST_TEST((first.out.values() == second.out.values()), name);
            BOOST_TEST((first.lse.values() == second.lse.values()), name);
            BOOST_TEST((first.d_q.values() == second.d_q.values()), name);
            for (std::size_t b = 0; b < problem.blocks.size(); ++b) {
                BOOST_TEST((first.d_k[b].values() == second.d_k[b].values()), name);
                BOOST_TEST((first.d_v[b].values() == second.d_v[b].values()), name);
            }
        }
    }
}

// Gradients of what was not a number before, as if it had been zero: of triangles that are apart, and of
// some that meet in a K/V head.
BOOST_AUTO_TEST_CASE_TEMPLATE(overwritten_gradients_start_from_nothing, Device, Devices) {
    const Stream<Device> stream;
    for (const auto& [heads, kv_heads] : std::vector<std::pair<Index, Index>>{{4, 2}, {9, 3}}) {
        for (const Index head_dim : {Index{64}, Index{16}, Index{12}}) {
            const Layout layout{.length = 580, .group = 290, .ranks = 2, .pattern = Pattern::s2};
            AttentionCase problem = case_of(layout, {heads, kv_heads}, 1, head_dim);
            problem.blocks.resize(1);  // the triangles
            auto host = HostArrays::random<Element<Device>>(problem);
            run_forward(Stream<Cpu>(), problem, host);
            run_delta(Stream<Cpu>(), host);
            const auto run = [&](float before, bool overwrites) {
                host.d_q = filled(problem.tokens, problem.columns(), before);
                host.d_k[0] = filled(problem.tokens, kv_heads * head_dim, before);
                host.d_v[0] = filled(problem.tokens, kv_heads * head_dim, before);
                DeviceArrays<Device> at(stream, host, {});
                run_backward(stream, problem, at, {.overwrites = overwrites});
                BOOST_TEST(at.are_intact());
                return std::array{at.d_q.values(), at.d_k[0].values(), at.d_v[0].values()};
            };
            for (const AttentionKernels kernels : all_kernels) {
                const Choice choice(kernels);
                const auto expected = run(0, false);
                const auto actual = run(std::numeric_limits<float>::quiet_NaN(), true);
                BOOST_TEST((actual == expected));
            }
        }
    }
}

namespace {

// Forward and backward of a whole sequence, shard by shard, as the model does it: triangles first, what
// squares add to keys of other shards is formed there and added.
template <class Device>
struct Sequence {
    using S = Element<Device>;

    Sequence(const Stream<Device>& stream_, const Layout& layout_, const Heads& heads_,
             Index head_dim_)
        : stream(stream_),
          layout(layout_),
          heads(heads_),
          head_dim(head_dim_),
          q(input(1, heads.query)),
          d_out(input(2, heads.query)),
          k(input(3, heads.kv)),
          v(input(4, heads.kv)),
          out(input(5, heads.query)),
          d_q(nothing(heads.query)),
          d_k(nothing(heads.kv)),
          d_v(nothing(heads.kv)) {
        for (Index shard = 0; shard < layout.shards(); ++shard) {
            run(layout.tokens(shard), plan_shard(layout, heads, shard));
        }
    }

    DeviceMatrix<Device, S> input(std::uint64_t key, Index count) {
        return {stream, random_matrix<S>(key, {layout.length, count * head_dim})};
    }
    DeviceMatrix<Device, float> nothing(Index count) {
        return {stream,
                filled(layout.length, count * head_dim, std::numeric_limits<float>::quiet_NaN())};
    }

    void run(Range own, const ShardPlan& plan) {
        const Range kv_heads{0, heads.kv};
        const auto part = [&](auto view, Range rows, Range of_heads) {
            return view.rows(rows).columns({of_heads.begin * head_dim, of_heads.end * head_dim});
        };
        DeviceMatrix<Device, float> shard_lse(stream, heads.query, own.size());
        DeviceMatrix<Device, float> delta(stream, heads.query, own.size());
        const auto shard_out = out.view().rows(own);
        attention_reset(stream, AttentionReset<Device>{.out = shard_out, .lse = shard_lse.view()});
        const auto forward = [&](const auto& items, Range rows, Range of_heads) {
            attention_forward(stream, AttentionForward<Device>{
                                          .q = q.view().rows(own),
                                          .block = {part(k.view(), rows, of_heads),
                                                    part(v.view(), rows, of_heads), of_heads.begin},
                                          .items = items,
                                          .head_dim = head_dim,
                                          .queries_per_kv = heads.queries_per_kv(),
                                          .out = shard_out,
                                          .lse = shard_lse.view()});
        };
        forward(plan.own_items(), own, kv_heads);
        for (const ContextBlock& block : plan.blocks) {
            forward(block.items, block.tokens, block.kv_heads);
        }
        attention_delta(
            stream, AttentionDelta<Device>{
                        .d_out = d_out.view().rows(own), .out = shard_out, .delta = delta.view()});
        const auto backward = [&](const auto& items, const KeyValueBlock<Device>& block,
                                  View<Device, float, 2> to_k, View<Device, float, 2> to_v,
                                  bool overwrites) {
            attention_backward(stream,
                               AttentionBackward<Device>{.q = q.view().rows(own),
                                                         .block = block,
                                                         .items = items,
                                                         .head_dim = head_dim,
                                                         .queries_per_kv = heads.queries_per_kv(),
                                                         .d_out = d_out.view().rows(own),
                                                         .lse = shard_lse.view(),
                                                         .delta = delta.view(),
                                                         .d_q = d_q.view().rows(own),
                                                         .d_k = to_k,
                                                         .d_v = to_v,
                                                         .overwrites = overwrites});
        };
        const KeyValueBlock<Device> shard{k.view().rows(own), v.view().rows(own), 0};
        backward(plan.triangles, shard, d_k.view().rows(own), d_v.view().rows(own), true);
        for (const ContextBlock& block : plan.blocks) {
            const auto [rows, of_heads] = std::pair(block.tokens, block.kv_heads);
            const Matrix zeros(rows.size(), of_heads.size() * head_dim);
            DeviceMatrix<Device, float> from_k(stream, zeros);
            DeviceMatrix<Device, float> from_v(stream, zeros);
            backward(
                block.items,
                {part(k.view(), rows, of_heads), part(v.view(), rows, of_heads), of_heads.begin},
                from_k.view(), from_v.view(), false);
            accumulate(stream, Accumulate<Device, float>{.x = from_k.view(),
                                                         .out = part(d_k.view(), rows, of_heads)});
            accumulate(stream, Accumulate<Device, float>{.x = from_v.view(),
                                                         .out = part(d_v.view(), rows, of_heads)});
        }
        backward(plan.rectangles, shard, d_k.view().rows(own), d_v.view().rows(own), false);
        const std::vector<float> values = shard_lse.values();
        for (Index h = 0; h < heads.query; ++h) {
            for (Index t = 0; t < own.size(); ++t) {
                lse[{h, own.begin + t}] = values[static_cast<std::size_t>(h * own.size() + t)];
            }
        }
    }

    const Stream<Device>& stream;
    Layout layout;
    Heads heads;
    Index head_dim;
    DeviceMatrix<Device, S> q, d_out, k, v, out;
    DeviceMatrix<Device, float> d_q, d_k, d_v;
    std::map<std::pair<Index, Index>, float> lse;
};

}  // namespace

// mathematics.md, section 7, for what attention contributes.
BOOST_AUTO_TEST_CASE_TEMPLATE(aligned_layouts_give_the_same_bits, Device, Devices) {
    const Stream<Device> stream;
    const auto compare = [&](Index half, Index head_dim) {
        const auto run = [&](Index ranks, Index chunks) {
            const Layout layout{
                .length = 4 * half, .group = 2 * half, .ranks = ranks, .chunks = chunks};
            return Sequence<Device>(stream, layout, {3, 1}, head_dim);
        };
        const auto whole = run(1, 1);
        for (const auto& [ranks, chunks] : std::vector<std::pair<Index, Index>>{{2, 1}, {1, 4}}) {
            const auto cut = run(ranks, chunks);
            BOOST_TEST((whole.out.values() == cut.out.values()));
            BOOST_TEST((whole.lse == cut.lse));
            BOOST_TEST((whole.d_q.values() == cut.d_q.values()));
            BOOST_TEST((whole.d_k.values() == cut.d_k.values()));
            BOOST_TEST((whole.d_v.values() == cut.d_v.values()));
        }
    };
    for (const Index half : {Index{70}, Index{5}}) {
        compare(half, 16);
    }
    for (const AttentionKernels kernels :
         {AttentionKernels::hopper, AttentionKernels::hopper_in_turn}) {
        const Choice choice(kernels);
        compare(130, 64);
    }
    compare(5, 64);
    compare(150, 128);
}

BOOST_AUTO_TEST_CASE_TEMPLATE(no_token_sees_a_later_one, Device, Devices) {
    const Stream<Device> stream;
    const AttentionCase problem = triangle(130, 2, 1, 16);
    auto host = HostArrays::random<Element<Device>>(problem);
    DeviceArrays<Device> before(stream, host, {});
    run_forward(stream, problem, before);
    constexpr Index changed = 77;
    for (Index c = 0; c < problem.head_dim; ++c) {
        host.k[0].view()(changed, c) += 1;
        host.v[0].view()(changed, c) = -1e30F;
    }
    DeviceArrays<Device> after(stream, host, {});
    run_forward(stream, problem, after);
    const auto a = before.out.values();
    const auto b = after.out.values();
    const auto first = static_cast<std::ptrdiff_t>(changed * problem.columns());
    BOOST_TEST(std::equal(a.begin(), a.begin() + first, b.begin()));
    for (Index t = changed; t < problem.tokens; ++t) {
        const auto row = static_cast<std::size_t>(t * problem.columns());
        BOOST_TEST((a[row] != b[row]));
    }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(large_scores_do_not_overflow, Device, Devices) {
    const Stream<Device> stream;
    const AttentionCase problem = triangle(40, 1, 1, 16);
    HostArrays expected = HostArrays::random<Element<Device>>(problem);
    for (Index t = 0; t < problem.tokens; ++t) {
        for (Index c = 0; c < problem.head_dim; ++c) {
            expected.q.view()(t, c) *= 1024;  // a power of 2 keeps what was rounded
        }
    }
    DeviceArrays<Device> actual(stream, expected, {});
    run_forward(Stream<Cpu>(), problem, expected);
    run_forward(stream, problem, actual);
    require_near("out", actual.out.values(), expected.out.values<float>(), 2e-3);
    require_near("lse", actual.lse.values(), expected.lse.values<float>());
}

// Half-groups of one token make more tiles than one launch takes.
BOOST_AUTO_TEST_CASE(many_tiles_come_in_several_launches) {
    const Stream<Cuda> stream;
    constexpr Index tokens = 2500;
    const Layout layout{.length = tokens, .group = 2, .pattern = Pattern::local};
    const AttentionCase problem = case_of(layout, {1, 1}, 0, 16);
    HostArrays expected = HostArrays::random<BFloat16>(problem);
    DeviceArrays<Cuda> actual(stream, expected, {});
    run_forward(Stream<Cpu>(), problem, expected);
    run_forward(stream, problem, actual);
    require_near("out", actual.out.values(), expected.out.values<float>(), 1e-2);
    require_near("lse", actual.lse.values(), expected.lse.values<float>());
}
