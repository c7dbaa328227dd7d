#include "kernels/attention.hpp"

#include "reference/attention.hpp"
#include "reference/compare.hpp"

using namespace longlora;
using namespace longlora::reference;

namespace {

AttentionCase triangle(Index tokens, Index heads, Index kv_heads, Index head_dim) {
    const AttentionItem item{{0, heads}, {0, tokens}, {0, tokens}, true};
    return {tokens, heads, kv_heads, head_dim, {{tokens, {0, kv_heads}, {item}}}};
}

AttentionCase rectangle(Index tokens, Index keys, Index head_dim) {
    const AttentionItem item{{0, 2}, {0, tokens}, {0, keys}, false};
    return {tokens, 2, 2, head_dim, {{keys, {0, 2}, {item}}}};
}

// A shard of three half-groups whose first one is the second of its group in the unshifted heads
// 0 .. 3: left context from the neighbour for those, whose K/V heads are 0 and 1 of 3, and squares
// and triangles of its own. As the model, it takes the own keys first and the halo last.
AttentionCase s2_with_halo(Index half, Index head_dim) {
    const Range unshifted{0, 4};
    const Range shifted{4, 9};
    const AttentionBlock own{3 * half,
                             {0, 3},
                             {{{0, 9}, {0, half}, {0, half}, true},
                              {shifted, {half, 2 * half}, {0, half}, false},
                              {{0, 9}, {half, 2 * half}, {half, 2 * half}, true},
                              {unshifted, {2 * half, 3 * half}, {half, 2 * half}, false},
                              {{0, 9}, {2 * half, 3 * half}, {2 * half, 3 * half}, true}}};
    const AttentionBlock halo{half, {0, 2}, {{unshifted, {0, half}, {0, half}, false}}};
    return {3 * half, 9, 3, head_dim, {own, halo}};
}

// Full attention whose left context comes in uneven pieces, the last with one K/V head only; rows 0
// to 4 see nothing of the first block, and heads 0, 1 nothing of the last.
AttentionCase uneven_blocks() {
    const AttentionItem late{{0, 4}, {5, 40}, {1, 14}, false};
    const AttentionItem all{{0, 4}, {0, 40}, {0, 1}, false};
    const AttentionItem own{{0, 4}, {0, 40}, {0, 40}, true};
    const AttentionItem upper{{2, 4}, {3, 37}, {2, 105}, false};
    return {
        40,
        4,
        2,
        12,
        {{14, {0, 2}, {late}}, {1, {0, 2}, {all}}, {40, {0, 2}, {own}}, {106, {1, 2}, {upper}}}};
}

const std::vector<std::pair<std::string, AttentionCase>>& cases() {
    static const std::vector<std::pair<std::string, AttentionCase>> list = {
        {"one token", triangle(1, 1, 1, 2)},
        {"7 tokens", triangle(7, 3, 1, 8)},
        {"33 tokens", triangle(33, 9, 3, 16)},
        {"97 tokens, odd half", triangle(97, 2, 1, 6)},
        {"200 tokens", triangle(200, 2, 2, 64)},
        {"100 tokens, wide head", triangle(100, 1, 1, 128)},
        {"uneven width", triangle(50, 2, 2, 72)},
        {"two chunks of queries", triangle(450, 1, 1, 8)},
        {"one query", rectangle(1, 205, 16)},
        {"two keys", rectangle(60, 2, 16)},
        {"rectangle", rectangle(53, 211, 32)},
        {"halo", s2_with_halo(11, 16)},
        {"halo, larger", s2_with_halo(48, 8)},
        {"uneven blocks", uneven_blocks()}};
    return list;
}

// The operands of a case, with gaps between the rows.
struct Operands {
    explicit Operands(const AttentionCase& problem)
        : q(Matrix::random(100, problem.tokens, problem.columns(), 3)),
          d_out(Matrix::random(101, problem.tokens, problem.columns(), 1)) {
        for (const AttentionBlock& block : problem.blocks) {
            const Index columns = block.columns(problem.head_dim);
            const auto key = static_cast<std::uint64_t>(110 + 2 * k.size());
            k.push_back(Matrix::random(key, block.keys, columns, 2));
            v.push_back(Matrix::random(key + 1, block.keys, columns, 5));
        }
    }

    template <class S>
    AttentionInputs<S> inputs() const {
        AttentionInputs<S> result{q.values<S>(), {}, {}};
        for (std::size_t b = 0; b < k.size(); ++b) {
            result.k.push_back(k[b].values<S>());
            result.v.push_back(v[b].values<S>());
        }
        return result;
    }

    Matrix q;
    Matrix d_out;
    std::vector<Matrix> k;
    std::vector<Matrix> v;
};

struct Results {
    explicit Results(const AttentionCase& problem)
        : out(Matrix::random(102, problem.tokens, problem.columns(), 4)),
          lse(problem.heads, problem.tokens, 1),
          delta(problem.heads, problem.tokens, 2),
          d_q(problem.tokens, problem.columns(), 1) {
        for (const AttentionBlock& block : problem.blocks) {
            d_k.emplace_back(block.keys, block.columns(problem.head_dim), 1);
            d_v.emplace_back(block.keys, block.columns(problem.head_dim), 3);
        }
    }

    Matrix out;
    Matrix lse;
    Matrix delta;
    Matrix d_q;
    std::vector<Matrix> d_k;
    std::vector<Matrix> d_v;
};

struct Run {
    int threads = 1;
    bool one_item_a_call = false;
};

// Calls body(items) for the item lists of the calls to make.
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

Results run_kernels(const AttentionCase& problem, const Operands& in, const Run& how) {
    const Stream<Cpu> stream(how.threads);
    Results result(problem);
    attention_reset(stream, {.out = result.out.view(), .lse = result.lse.view()});
    const auto block_of = [&](std::size_t b) {
        return KeyValueBlock<Cpu>{in.k[b].view(), in.v[b].view(), problem.blocks[b].kv_heads.begin};
    };
    for (std::size_t b = 0; b < problem.blocks.size(); ++b) {
        for_calls(problem.blocks[b], how.one_item_a_call, [&](auto items) {
            attention_forward(stream, {.q = in.q.view(),
                                       .block = block_of(b),
                                       .items = items,
                                       .head_dim = problem.head_dim,
                                       .queries_per_kv = problem.queries_per_kv(),
                                       .out = result.out.view(),
                                       .lse = result.lse.view()});
        });
    }
    attention_delta(
        stream, {.d_out = in.d_out.view(), .out = result.out.view(), .delta = result.delta.view()});
    for (std::size_t b = problem.blocks.size(); b-- > 0;) {
        for_calls(problem.blocks[b], how.one_item_a_call, [&](auto items) {
            attention_backward(stream, {.q = in.q.view(),
                                        .block = block_of(b),
                                        .items = items,
                                        .head_dim = problem.head_dim,
                                        .queries_per_kv = problem.queries_per_kv(),
                                        .d_out = in.d_out.view(),
                                        .lse = result.lse.view(),
                                        .delta = result.delta.view(),
                                        .d_q = result.d_q.view(),
                                        .d_k = result.d_k[b].view(),
                                        .d_v = result.d_v[b].view()});
        });
    }
    return result;
}

// dP - delta cancels, and without FMA it does so with more error than the plain computation had by
// luck: a millionth of the largest entry is allowed at least.
double gradient_tolerance(const std::vector<float>& plain, const std::vector<double>& expected) {
    return std::max(earned_tolerance(plain, expected), relative_tolerance(1e-6, expected));
}

bool same_bits(const Results& a, const Results& b) {
    bool is_same = a.out.values() == b.out.values() && a.lse.values() == b.lse.values() &&
                   a.d_q.values() == b.d_q.values();
    for (std::size_t i = 0; i < a.d_k.size(); ++i) {
        is_same = is_same && a.d_k[i].values() == b.d_k[i].values() &&
                  a.d_v[i].values() == b.d_v[i].values();
    }
    return is_same;
}

}  // namespace

BOOST_AUTO_TEST_CASE(forward_agrees_with_the_formula) {
    for (const auto& [name, problem] : cases()) {
        const Operands operands(problem);
        const Results actual = run_kernels(problem, operands, {});
        const auto expected = attention(problem, operands.inputs<double>());
        const auto plain = attention(problem, operands.inputs<float>());
        require_close(name + ", out", actual.out.values(), expected.out,
                      earned_tolerance(plain.out, expected.out));
        require_close(name + ", lse", actual.lse.values(), expected.lse,
                      earned_tolerance(plain.lse, expected.lse));
        BOOST_TEST(actual.out.gaps_are_intact());
        BOOST_TEST(actual.lse.gaps_are_intact());
    }
}

BOOST_AUTO_TEST_CASE(backward_agrees_with_the_formula) {
    for (const auto& [name, problem] : cases()) {
        const Operands operands(problem);
        const Results actual = run_kernels(problem, operands, {});
        const auto in = operands.inputs<double>();
        auto outputs = attention(problem, in);
        const auto expected = attention_backward(problem, in, outputs, operands.d_out.values());
        const auto in_float = operands.inputs<float>();
        auto plain_outputs = attention(problem, in_float);
        const auto plain =
            attention_backward(problem, in_float, plain_outputs, operands.d_out.values<float>());
        require_close(name + ", delta", actual.delta.values(), outputs.delta,
                      gradient_tolerance(plain_outputs.delta, outputs.delta));
        require_close(name + ", d_q", actual.d_q.values(), expected.q,
                      gradient_tolerance(plain.q, expected.q));
        BOOST_TEST(actual.d_q.gaps_are_intact());
        for (std::size_t b = 0; b < problem.blocks.size(); ++b) {
            require_close(name + ", d_k", actual.d_k[b].values(), expected.k[b],
                          gradient_tolerance(plain.k[b], expected.k[b]));
            require_close(name + ", d_v", actual.d_v[b].values(), expected.v[b],
                          gradient_tolerance(plain.v[b], expected.v[b]));
            BOOST_TEST(actual.d_k[b].gaps_are_intact());
            BOOST_TEST(actual.d_v[b].gaps_are_intact());
        }
    }
}

// The reference's backward against the derivative of the reference's forward.
BOOST_AUTO_TEST_CASE(the_formula_of_backward_is_the_derivative) {
    using Complex = std::complex<double>;
    const AttentionCase problem = s2_with_halo(2, 4);
    const Operands operands(problem);
    const auto in = operands.inputs<double>();
    const auto d_out = operands.d_out.values();
    auto outputs = attention(problem, in);
    const auto expected = attention_backward(problem, in, outputs, d_out);
    auto inputs = operands.inputs<Complex>();
    const auto derivative_by = [&](std::vector<Complex>& values, const std::vector<double>& at) {
        const std::vector<Complex> kept = values;
        const auto result = gradient(
            [&](const std::vector<Complex>& z) {
                values = z;
                return dot(attention(problem, inputs).out, d_out);
            },
            at);
        values = kept;
        return result;
    };
    require_close("d_q", derivative_by(inputs.q, in.q), expected.q, 1e-13);
    for (std::size_t b = 0; b < problem.blocks.size(); ++b) {
        require_close("d_k", derivative_by(inputs.k[b], in.k[b]), expected.k[b], 1e-13);
        require_close("d_v", derivative_by(inputs.v[b], in.v[b]), expected.v[b], 1e-13);
    }
}

BOOST_AUTO_TEST_CASE(gradients_are_added) {
    const AttentionCase problem = triangle(9, 2, 1, 8);
    const Operands in(problem);
    Results result = run_kernels(problem, in, {});
    const std::vector<double> once = result.d_k[0].values();
    attention_backward(Stream<Cpu>(), {.q = in.q.view(),
                                       .block = {in.k[0].view(), in.v[0].view()},
                                       .items = problem.blocks[0].items,
                                       .head_dim = 8,
                                       .queries_per_kv = 2,
                                       .d_out = in.d_out.view(),
                                       .lse = result.lse.view(),
                                       .delta = result.delta.view(),
                                       .d_q = result.d_q.view(),
                                       .d_k = result.d_k[0].view(),
                                       .d_v = result.d_v[0].view()});
    std::vector<double> twice = once;
    for (double& value : twice) {
        value *= 2;
    }
    require_close("d_k", result.d_k[0].values(), twice, relative_tolerance(1e-6, twice));
}

BOOST_AUTO_TEST_CASE(neither_threads_nor_calls_change_a_bit) {
    for (const auto& [name, problem] : cases()) {
        const Operands operands(problem);
        const Results one = run_kernels(problem, operands, {});
        BOOST_TEST(same_bits(one, run_kernels(problem, operands, {.threads = 3})), name);
        const Run separate{.threads = 1, .one_item_a_call = true};
        BOOST_TEST(one.out.values() == run_kernels(problem, operands, separate).out.values(), name);
    }
}

BOOST_AUTO_TEST_CASE(no_token_sees_a_later_one) {
    const AttentionCase problem = triangle(130, 2, 1, 16);
    Operands operands(problem);
    const Results before = run_kernels(problem, operands, {});
    for (Index c = 0; c < 16; ++c) {
        operands.k[0].view()(77, c) += 1;
        operands.v[0].view()(77, c) = -1e30F;
    }
    const Results after = run_kernels(problem, operands, {});
    bool is_same = true;
    bool is_seen = true;
    for (Index t = 0; t < 130; ++t) {
        const bool is_equal = after.out.view()(t, 3) == before.out.view()(t, 3);
        is_same = is_same && (t >= 77 || is_equal);
        is_seen = is_seen && (t < 77 || !is_equal);
    }
    BOOST_TEST(is_same);
    BOOST_TEST(is_seen);
}

BOOST_AUTO_TEST_CASE(large_scores_do_not_overflow) {
    const AttentionCase problem = triangle(40, 1, 1, 16);
    Operands operands(problem);
    for (Index t = 0; t < 40; ++t) {
        for (Index c = 0; c < 16; ++c) {
            operands.q.view()(t, c) *= 1000;
        }
    }
    const Results actual = run_kernels(problem, operands, {});
    const auto expected = attention(problem, operands.inputs<double>());
    require_close("out", actual.out.values(), expected.out, relative_tolerance(1e-3, expected.out));
}
