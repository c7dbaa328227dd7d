// Microseconds of the kernels that move bytes, at the shapes of a model: cuda_small [tokens=32768] [width=4096]
//     [mlp_width=11008] [vocabulary=32000] [heads=32] [head_rows=4096] [seconds=0.3]
// Bytes are those that must move: operands once, rows of tables as often as they are asked for. All operands together
// exceed the L2 cache several times.
#include "core/random.hpp"
#include "device_timing.hpp"
#include "kernels/adamw.hpp"
#include "kernels/attention.hpp"
#include "kernels/cross_entropy.hpp"
#include "kernels/elementwise.hpp"
#include "kernels/embedding.hpp"
#include "kernels/fixed_point.hpp"
#include "kernels/rms_norm.hpp"
#include "kernels/rope.hpp"
#include "kernels/swiglu.hpp"

using namespace longlora;
using namespace longlora::bench;

namespace {

constexpr Index float_bytes = 4;
constexpr Index element_bytes = 2;
constexpr Index sum_bytes = 8;

using Bits = Matrix<BFloat16>;
using Floats = Matrix<float>;

class Small {
public:
    Small(const Stream<Cuda>& stream, const Settings& settings)
        : stream_(stream),
          budget_(settings.number("seconds")),
          tokens_(settings.index("tokens")),
          width_(settings.index("width")),
          mlp_(settings.index("mlp_width")),
          vocabulary_(settings.index("vocabulary")),
          heads_(settings.index("heads")),
          head_rows_(settings.index("head_rows")) {}

    void elementwise() const {
        const Floats x(stream_, tokens_, width_);
        const Floats out(stream_, tokens_, width_);
        const Bits bits(stream_, tokens_, width_);
        report("copy", elements() * 2 * float_bytes,
               [&] { copy(stream_, Copy<Cuda, float>{.x = x.view, .out = out.view}); });
        report("accumulate", elements() * 3 * float_bytes,
               [&] { accumulate(stream_, Accumulate<Cuda, float>{.x = x.view, .out = out.view}); });
        report("convert", elements() * (float_bytes + element_bytes),
               [&] { convert(stream_, Convert<Cuda>{.x = x.view, .out = bits.view}); });
    }

    void norms() const {
        const Floats x(stream_, tokens_, width_);
        const Floats weight(stream_, 1, width_);
        const Floats d_weight(stream_, 1, width_);
        const Floats d_y(stream_, tokens_, width_);
        const Bits y(stream_, tokens_, width_);
        const Bits normalised(stream_, tokens_, width_);
        const Floats rstd(stream_, 1, tokens_);
        report("rms_norm_forward", elements() * (float_bytes + 2 * element_bytes), [&] {
            rms_norm_forward(stream_, RmsNormForward<Cuda>{.x = x.view,
                                                           .weight = weight.view.flat(),
                                                           .y = y.view,
                                                           .normalised = normalised.view,
                                                           .rstd = rstd.view.flat(),
                                                           .epsilon = 1e-5F});
        });
        report("rms_norm_again", elements() * 2 * element_bytes, [&] {
            rms_norm_again(stream_, RmsNormAgain<Cuda>{.normalised = normalised.view,
                                                       .weight = weight.view.flat(),
                                                       .y = y.view});
        });
        report("rms_norm_backward", elements() * (3 * float_bytes + element_bytes), [&] {
            rms_norm_backward(stream_, RmsNormBackward<Cuda>{.d_y = d_y.view,
                                                             .normalised = normalised.view,
                                                             .weight = weight.view.flat(),
                                                             .rstd = rstd.view.flat(),
                                                             .d_x = x.view,
                                                             .d_weight = d_weight.view.flat()});
        });
    }

    // Queries and keys of one layer, in the packed buffer of q, k and v.
    void rotation() const {
        const Bits packed(stream_, tokens_, 3 * width_);
        const Floats gradient(stream_, tokens_, 3 * width_);
        const Floats cosine(stream_, tokens_, width_ / heads_ / 2);
        const Floats sine(stream_, tokens_, width_ / heads_ / 2);
        const Index table = tokens_ * width_ / heads_ * float_bytes;
        report("rotary_table", table, [&] {
            rotary_table(stream_, RotaryTable<Cuda>{.first_position = 0,
                                                    .theta = 1e4,
                                                    .factor = 1,
                                                    .cosine = cosine.view,
                                                    .sine = sine.view});
        });
        const auto q = packed.view.columns({0, width_});
        report("rope", elements() * 2 * element_bytes + table, [&] {
            rope(stream_, Rope<Cuda>{.x = q, .cosine = cosine.view, .sine = sine.view});
        });
        report("rope_gradient", elements() * (float_bytes + element_bytes) + table, [&] {
            rope_gradient(stream_, RopeGradient<Cuda>{.d_y = gradient.view.columns({0, width_}),
                                                      .cosine = cosine.view,
                                                      .sine = sine.view,
                                                      .d_x = q});
        });
    }

    void swiglu() const {
        const Bits gate(stream_, tokens_, mlp_);
        const Bits up(stream_, tokens_, mlp_);
        const Bits out(stream_, tokens_, mlp_);
        const Floats d_out(stream_, tokens_, mlp_);
        report("swiglu_forward", tokens_ * mlp_ * 3 * element_bytes, [&] {
            swiglu_forward(stream_,
                           SwigluForward<Cuda>{.gate = gate.view, .up = up.view, .out = out.view});
        });
        // Into memory of its own: in place, gate and up would grow from call to call.
        const Bits d_up(stream_, tokens_, mlp_);
        report("swiglu_backward", tokens_ * mlp_ * (float_bytes + 4 * element_bytes), [&] {
            swiglu_backward(stream_, SwigluBackward<Cuda>{.d_out = d_out.view,
                                                          .gate = gate.view,
                                                          .up = up.view,
                                                          .d_gate = out.view,
                                                          .d_up = d_up.view});
        });
    }

    void around_attention() const {
        const Bits out(stream_, tokens_, width_);
        const Bits d_out(stream_, tokens_, width_);
        const Floats lse(stream_, heads_, tokens_);
        report("attention_reset", elements() * element_bytes, [&] {
            attention_reset(stream_, AttentionReset<Cuda>{.out = out.view, .lse = lse.view});
        });
        report("attention_delta", elements() * 2 * element_bytes, [&] {
            attention_delta(stream_, AttentionDelta<Cuda>{
                                         .d_out = d_out.view, .out = out.view, .delta = lse.view});
        });
    }

    void embedding() const {
        const Floats table(stream_, vocabulary_, width_, 0.02);
        const Floats x(stream_, tokens_, width_, 1e-3);
        const Buffer<Cuda, std::int32_t> tokens = random_tokens(tokens_);
        Buffer<Cuda, std::int64_t> sum(vocabulary_ * width_);
        Buffer<Cuda, std::int64_t> refused(1);
        report("embedding_forward", elements() * 2 * float_bytes, [&] {
            embedding_forward(
                stream_,
                EmbeddingForward<Cuda>{.tokens = tokens.view(), .table = table.view, .x = x.view});
        });
        const View<Cuda, std::int64_t, 2> sums(sum.view().data(), vocabulary_, width_);
        report("embedding_gradient", elements() * (float_bytes + 2 * sum_bytes), [&] {
            embedding_gradient(stream_, EmbeddingGradient<Cuda>{.tokens = tokens.view(),
                                                                .d_x = x.view,
                                                                .sum = sums,
                                                                .largest = 1,
                                                                .refused = refused.view()});
        });
    }

    void loss() const {
        const Floats logits(stream_, head_rows_, vocabulary_);
        const Bits d_logits(stream_, head_rows_, vocabulary_);
        const Buffer<Cuda, std::int32_t> labels = random_tokens(head_rows_);
        const Floats losses(stream_, 1, head_rows_);
        report("cross_entropy", head_rows_ * vocabulary_ * (float_bytes + element_bytes), [&] {
            cross_entropy(stream_, CrossEntropy<Cuda>{.logits = logits.view,
                                                      .labels = labels.view(),
                                                      .loss = losses.view.flat(),
                                                      .scale = 1e-4F,
                                                      .wants_gradient = true,
                                                      .d_logits = d_logits.view});
        });
    }

    // All trainables of LoRA+ at once: the embedding is nearly all of them.
    void optimizer() const {
        const Index size = vocabulary_ * width_;
        Buffer<Cuda, std::int64_t> sum(size);
        const auto weight = random_buffer<float>(stream_, size, 0.02);
        auto gradient = random_buffer<float>(stream_, size, 1e-3);
        Buffer<Cuda, float> first(size);
        Buffer<Cuda, float> second(size);
        constexpr Index piece = 4096;
        Buffer<Cuda, double> squares(ceil_div(size, piece));
        Buffer<Cuda, float> own = random_buffer<float>(stream_, size, 0.02);
        report("fixed_point_value", size * (sum_bytes + float_bytes), [&] {
            fixed_point_value(stream_,
                              FixedPointValue<Cuda>{.sum = sum.view(), .out = gradient.view()});
        });
        report("squared_norms", size * float_bytes, [&] {
            squared_norms(
                stream_,
                SquaredNorms<Cuda>{.x = weight.view(), .piece = piece, .squares = squares.view()});
        });
        report("adamw_step", size * 7 * float_bytes, [&] {
            adamw_step(stream_, AdamwStep<Cuda>{.weight = own.view(),
                                                .gradient = weight.view(),
                                                .first_moment = first.view(),
                                                .second_moment = second.view(),
                                                .learning_rate = 1e-5,
                                                .beta1 = 0.9,
                                                .beta2 = 0.95,
                                                .epsilon = 1e-8,
                                                .weight_decay = 0,
                                                .gradient_scale = 1,
                                                .step = 1});
        });
    }

private:
    Index elements() const { return tokens_ * width_; }

    Buffer<Cuda, std::int32_t> random_tokens(Index count) const {
        std::vector<std::int32_t> values;
        for (Index i = 0; i < count; ++i) {
            values.push_back(static_cast<std::int32_t>(mix_bits(static_cast<std::uint64_t>(i)) %
                                                       static_cast<std::uint64_t>(vocabulary_)));
        }
        Buffer<Cuda, std::int32_t> tokens(count);
        upload<Cuda, std::int32_t>(stream_, values, tokens.view());
        stream_.synchronize();
        return tokens;
    }

    void report(const std::string& name, Index bytes, const Work& work) const {
        const Timing time = measure(stream_, budget_, work);
        print_line(
            name,
            {{"bytes", static_cast<double>(bytes)}, {"seconds", time.median}, {"best", time.best}});
    }

    const Stream<Cuda>& stream_;
    double budget_;
    Index tokens_;
    Index width_;
    Index mlp_;
    Index vocabulary_;
    Index heads_;
    Index head_rows_;
};

}  // namespace

int main(int argc, char** argv) {
    return run([&](const Stream<Cuda>& stream) {
        const Settings settings({{"tokens", "32768"},
                                 {"width", "4096"},
                                 {"mlp_width", "11008"},
                                 {"vocabulary", "32000"},
                                 {"heads", "32"},
                                 {"head_rows", "4096"},
                                 {"seconds", "0.3"}},
                                argc, argv);
        const Small small(stream, settings);
        small.elementwise();
        small.norms();
        small.rotation();
        small.swiglu();
        small.around_attention();
        small.embedding();
        small.loss();
        small.optimizer();
    });
}
