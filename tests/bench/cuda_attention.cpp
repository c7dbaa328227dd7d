// S2 attention on the device as the model calls it: the items of sequence/, heads packed in one buffer, backward in a
// call for triangles and one for rectangles:   cuda_attention [tokens=32768] [group=8192] [heads=32] [kv_heads=32] [head_dim=128]
//                                                    [seconds=1] [kernels=automatic]
// kernels: automatic, hopper, hopper_in_turn, tensor_cores or simple (kernels/cuda/attention_choice.hpp).
// FLOP are those of visible pairs, 4 D a pair and query head forward, 10 D backward.
#include "device_timing.hpp"
#include "kernels/attention.hpp"
#include "kernels/cuda/attention_choice.hpp"
#include "kernels/elementwise.hpp"
#include "sequence/left_context.hpp"

using namespace longlora;
using namespace longlora::bench;

namespace {

struct Sizes {
    Index tokens;
    Heads heads;
    Index head_dim;

    Index q_width() const { return heads.query * head_dim; }
    Index kv_width() const { return heads.kv * head_dim; }
    Index packed_width() const { return q_width() + 2 * kv_width(); }
};

// q, k and v side by side, as the model's projections write them.
template <class T>
struct Packed {
    View<Cuda, T, 2> q;
    View<Cuda, T, 2> k;
    View<Cuda, T, 2> v;

    Packed(View<Cuda, T, 2> all, const Sizes& sizes)
        : q(all.columns({0, sizes.q_width()})),
          k(all.columns({sizes.q_width(), sizes.q_width() + sizes.kv_width()})),
          v(all.columns({sizes.q_width() + sizes.kv_width(), sizes.packed_width()})) {}
};

class Attention {
public:
    Attention(const Stream<Cuda>& stream, const Sizes& sizes, const ShardPlan& plan)
        : stream_(stream),
          sizes_(sizes),
          plan_(plan),
          qkv_(stream, sizes.tokens, sizes.packed_width()),
          d_qkv_(stream, sizes.tokens, sizes.packed_width()),
          out_(stream, sizes.tokens, sizes.q_width()),
          d_out_(stream, sizes.tokens, sizes.q_width()),
          lse_(stream, sizes.heads.query, sizes.tokens),
          delta_(stream, sizes.heads.query, sizes.tokens) {}

    void reset() const { attention_reset(stream_, {.out = out_.view, .lse = lse_.view}); }

    void forward() const { attend(plan_.own_items()); }

    // What comes before the kernels of backward.
    void prepare() const {
        attention_delta(stream_, {.d_out = d_out_.view, .out = out_.view, .delta = delta_.view});
    }

    void backward() const {
        attend_backward(plan_.triangles, true);
        attend_backward(plan_.rectangles, false);
    }

private:
    void attend(std::span<const AttentionItem> items) const {
        const Packed<BFloat16> x(qkv_.view, sizes_);
        attention_forward(stream_,
                          AttentionForward<Cuda>{.q = x.q,
                                                 .block = {x.k, x.v, 0},
                                                 .items = items,
                                                 .head_dim = sizes_.head_dim,
                                                 .queries_per_kv = sizes_.heads.queries_per_kv(),
                                                 .out = out_.view,
                                                 .lse = lse_.view});
    }

    void attend_backward(std::span<const AttentionItem> items, bool overwrites) const {
        const Packed<BFloat16> x(qkv_.view, sizes_);
        const Packed<float> gradient(d_qkv_.view, sizes_);
        attention_backward(stream_,
                           AttentionBackward<Cuda>{.q = x.q,
                                                   .block = {x.k, x.v, 0},
                                                   .items = items,
                                                   .head_dim = sizes_.head_dim,
                                                   .queries_per_kv = sizes_.heads.queries_per_kv(),
                                                   .d_out = d_out_.view,
                                                   .lse = lse_.view,
                                                   .delta = delta_.view,
                                                   .d_q = gradient.q,
                                                   .d_k = gradient.k,
                                                   .d_v = gradient.v,
                                                   .overwrites = overwrites});
    }

    const Stream<Cuda>& stream_;
    const Sizes& sizes_;
    const ShardPlan& plan_;
    Matrix<BFloat16> qkv_;
    Matrix<float> d_qkv_;
    Matrix<BFloat16> out_;
    Matrix<BFloat16> d_out_;
    Matrix<float> lse_;
    Matrix<float> delta_;
};

void report(const std::string& name, double flop, const Timing& time) {
    print_line(name, {{"flop", flop},
                      {"seconds", time.median},
                      {"best", time.best},
                      {"runs", static_cast<double>(time.runs)}});
}

void measure_case(const Stream<Cuda>& stream, const Settings& settings) {
    const Sizes sizes{settings.index("tokens"),
                      {settings.index("heads"), settings.index("kv_heads")},
                      settings.index("head_dim")};
    const Layout layout{.length = sizes.tokens, .group = settings.index("group")};
    check_layout(layout);
    const ShardPlan plan = plan_shard(layout, sizes.heads, 0);
    const double pairs = visible_pairs(layout, sizes.heads) * static_cast<double>(sizes.head_dim);
    const double budget = settings.number("seconds");
    const Attention attention(stream, sizes, plan);
    report("forward_kernels", 4 * pairs, measure(stream, budget, [&] { attention.forward(); }));
    report("forward", 4 * pairs, measure(stream, budget, [&] {
               attention.reset();
               attention.forward();
           }));
    attention.prepare();
    report("backward_kernels", 10 * pairs, measure(stream, budget, [&] { attention.backward(); }));
    report("backward", 10 * pairs, measure(stream, budget, [&] {
               attention.prepare();
               attention.backward();
           }));
}

void choose_kernels(const std::string& name) {
    const std::map<std::string, AttentionKernels> known = {
        {"automatic", AttentionKernels::automatic},
        {"hopper", AttentionKernels::hopper},
        {"hopper_in_turn", AttentionKernels::hopper_in_turn},
        {"tensor_cores", AttentionKernels::tensor_cores},
        {"simple", AttentionKernels::simple}};
    require(known.count(name) == 1, "there are no kernels " + name);
    choose_attention_kernels(known.at(name));
}

}  // namespace

int main(int argc, char** argv) {
    return run([&](const Stream<Cuda>& stream) {
        const Settings settings({{"tokens", "32768"},
                                 {"group", "8192"},
                                 {"heads", "32"},
                                 {"kv_heads", "32"},
                                 {"head_dim", "128"},
                                 {"seconds", "1"},
                                 {"kernels", "automatic"}},
                                argc, argv);
        choose_kernels(settings.text("kernels"));
        measure_case(stream, settings);
    });
}
