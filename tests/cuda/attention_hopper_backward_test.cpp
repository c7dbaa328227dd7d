#include <limits>

#include "cuda/attention_case.hpp"
#include "kernels/cuda/attention_passes.hpp"
#ifdef LONGLORA_CUDA_EMULATED
#include "emulator.hpp"
#endif

// The two passes themselves, whatever attention_backward() would choose, against double precision.
using namespace longlora;
using namespace longlora::cuda_test;

namespace {

#ifdef LONGLORA_CUDA_EMULATED
void set_up() { emulator::set_capability(9, 0); }
void set_order(std::uint64_t seed) { emulator::set_order(seed); }
#else
void set_up() {}
void set_order(std::uint64_t) {}
#endif

// Some queries and keys in the middle of others, which no item names.
AttentionCase island(Index head_dim) {
    const AttentionItem item{{1, 3}, {30, 171}, {9, 150}, true};
    const AttentionItem square{{0, 1}, {5, 80}, {100, 167}, false};
    return {200, 3, 3, head_dim, {{170, {0, 3}, {item, square}}}};
}

std::vector<Problem> hopper_problems() {
    const Place aligned{8, 16};
    const Layout wide{.length = 256, .group = 128, .ranks = 2, .pattern = Pattern::s2};
    return {{"one token", triangle(1, 1, 1, 64)},
            {"one token", triangle(1, 1, 1, 128)},
            {"tails", triangle(70, 3, 1, 64), aligned},
            {"two keys in the last tile", triangle(130, 2, 1, 128)},
            {"more steps than stages", triangle(333, 1, 1, 64)},
            {"more steps than stages", triangle(400, 2, 1, 128), aligned},
            {"left context", case_of(wide, {3, 1}, 1, 128), aligned},
            {"several items in a row", overlapping(130, 64)},
            {"rows that nobody sees", island(128)},
            {"rows that nobody sees", island(64), aligned}};
}

struct Operands {
    explicit Operands(const AttentionCase& problem)
        : host(HostArrays::random<BFloat16>(problem)), in{host.q.values(), {}, {}} {
        for (std::size_t b = 0; b < problem.blocks.size(); ++b) {
            in.k.push_back(host.k[b].values());
            in.v.push_back(host.v[b].values());
        }
        out = reference::attention(problem, in);
        gradients = reference::attention_backward(problem, in, out, host.d_out.values());
        for (Index head = 0; head < problem.heads; ++head) {
            for (Index t = 0; t < problem.tokens; ++t) {
                const auto i = static_cast<std::size_t>(head * problem.tokens + t);
                // Nobody may use those of a query without keys.
                const bool sees_any = std::isfinite(out.lse[i]);
                constexpr float nan = std::numeric_limits<float>::quiet_NaN();
                host.lse.view()(head, t) = sees_any ? static_cast<float>(out.lse[i]) : nan;
                host.delta.view()(head, t) = sees_any ? static_cast<float>(out.delta[i]) : nan;
            }
        }
    }

    HostArrays host;
    reference::AttentionInputs<double> in;
    reference::AttentionOutputs<double> out;
    reference::AttentionInputs<double> gradients;
};

void run(const Stream<Cuda>& stream, const AttentionCase& problem, DeviceArrays<Cuda>& at) {
    for (std::size_t b = 0; b < problem.blocks.size(); ++b) {
        const AttentionBackward<Cuda> op{.q = at.q.view(),
                                         .block = block_of<Cuda>(problem, at, b),
                                         .items = problem.blocks[b].items,
                                         .head_dim = problem.head_dim,
                                         .queries_per_kv = problem.queries_per_kv(),
                                         .d_out = at.d_out.view(),
                                         .lse = at.lse.view(),
                                         .delta = at.delta.view(),
                                         .d_q = at.d_q.view(),
                                         .d_k = at.d_k[b].view(),
                                         .d_v = at.d_v[b].view()};
        BOOST_TEST(hopper::add_key_gradients(stream, op));
        BOOST_TEST(hopper::add_query_gradients(stream, op));
    }
}

// P and dS are rounded to bfloat16, by 2^-9 of themselves at most; sums have the largest of many.
void compare(const std::string& name, const std::vector<float>& actual,
             const std::vector<float>& before, const std::vector<double>& added) {
    std::vector<float> expected;
    for (std::size_t i = 0; i < before.size(); ++i) {
        expected.push_back(static_cast<float>(before[i] + added[i]));
    }
    constexpr double share = 4e-3;
    require_near(name, actual, expected, share);
}

}  // namespace

BOOST_AUTO_TEST_CASE(gradients_agree_with_double_precision) {
    set_up();
    const Stream<Cuda> stream;
    for (const auto& [name, problem, place] : hopper_problems()) {
        const Operands operands(problem);
        const HostArrays& host = operands.host;
        DeviceArrays<Cuda> actual(stream, host, place);
        run(stream, problem, actual);
        const std::string place_name = name + ", D = " + std::to_string(problem.head_dim);
        compare(place_name + ", d_q", actual.d_q.values(), host.d_q.values<float>(),
                operands.gradients.q);
        for (std::size_t b = 0; b < problem.blocks.size(); ++b) {
            const std::string block = place_name + ", block " + std::to_string(b);
            compare(block + ", d_k", actual.d_k[b].values(), host.d_k[b].values<float>(),
                    operands.gradients.k[b]);
            compare(block + ", d_v", actual.d_v[b].values(), host.d_v[b].values<float>(),
                    operands.gradients.v[b]);
        }
        BOOST_TEST(actual.are_intact(), place_name);
    }
}

BOOST_AUTO_TEST_CASE(no_order_of_threads_changes_a_bit) {
    set_up();
    const Stream<Cuda> stream;
    for (const auto& [name, problem, place] : hopper_problems()) {
        const Operands operands(problem);
        DeviceArrays<Cuda> first(stream, operands.host, place);
        run(stream, problem, first);
        set_order(11);
        DeviceArrays<Cuda> second(stream, operands.host, place);
        run(stream, problem, second);
        BOOST_TEST((first.d_q.values() == second.d_q.values()), name);
        for (std::size_t b = 0; b < problem.blocks.size(); ++b) {
            BOOST_TEST((first.d_k[b].values() == second.d_k[b].values()), name);
            BOOST_TEST((first.d_v[b].values() == second.d_v[b].values()), name);
        }
    }
}
