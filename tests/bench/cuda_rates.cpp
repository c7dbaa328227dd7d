// What the device can do at most, as a measure for all else: copies and bfloat16 matrix products, alone and at the
// shapes of a model:   cuda_rates [tokens=32768] [width=4096] [kv_width=4096] [mlp_width=11008] [vocabulary=32000]
//                                 [square=8192] [copy_mib=1024] [shapes=1] [seconds=0.5]       (0: leave them out)
#include "device_timing.hpp"
#include "kernels/elementwise.hpp"
#include "kernels/matmul.hpp"

using namespace longlora;
using namespace longlora::bench;

namespace {

constexpr Index lora_rank = 8;

class Rates {
public:
    Rates(const Stream<Cuda>& stream, const Settings& settings)
        : stream_(stream), settings_(settings), budget_(settings.number("seconds")) {}

    void copies() const {
        const Index floats = settings_.index("copy_mib") << 18;
        const auto from = random_buffer<float>(stream_, floats);
        Buffer<Cuda, float> to(floats);
        const auto bytes = sizeof(float) * static_cast<std::size_t>(floats);
        const auto report = [&](const std::string& name, const Timing& time) {
            print_line(name, {{"bytes", 2.0 * static_cast<double>(bytes)},
                              {"seconds", time.median},
                              {"best", time.best}});
        };
        report("copy_by_driver", measure(stream_, budget_, [&] {
                   cuda_check(cudaMemcpyAsync(to.view().data(), from.view().data(), bytes,
                                              cudaMemcpyDeviceToDevice, stream_.handle()),
                              "copy");
               }));
        constexpr Index columns = 4096;
        const View<Cuda, const float, 2> x(from.view().data(), floats / columns, columns);
        const View<Cuda, float, 2> out(to.view().data(), floats / columns, columns);
        report("copy_by_kernel", measure(stream_, budget_, [&] {
                   copy(stream_, Copy<Cuda, float>{.x = x, .out = out});
               }));
    }

    // y (T, O) = x (T, I) W', W (O, I), as the model has it: bfloat16, or added to the float residual.
    void forward(const std::string& name, Index outputs, Index inputs, bool adds) const {
        const Matrix<BFloat16> x(stream_, settings_.index("tokens"), inputs);
        const Matrix<BFloat16> weight(stream_, outputs, inputs, 0.02);
        if (adds) {
            product<float>(name, x.view, transposed(weight.view), 1);
        } else {
            product<BFloat16>(name, x.view, transposed(weight.view), 0);
        }
    }

    // dx (T, I) = dy (T, O) W; of several products the later ones add to the first.
    void backward(const std::string& name, Index outputs, Index inputs, bool adds) const {
        const Matrix<BFloat16> d_y(stream_, settings_.index("tokens"), outputs);
        const Matrix<BFloat16> weight(stream_, outputs, inputs, 0.02);
        product<float>(name, d_y.view, weight.view, adds ? 1.0F : 0.0F);
    }

    // LoRA's factors, dB (O, R) = dy' xa and dA (R, I) = dxa' x over `rows` tokens: a half-group.
    void factor_gradient(const std::string& name, Index rows, Index large) const {
        const Matrix<BFloat16> d_y(stream_, rows, large);
        const Matrix<BFloat16> thin(stream_, rows, lora_rank);
        product<float>(name + "_b", transposed(d_y.view), thin.view, 0);
        product<float>(name + "_a", transposed(thin.view), d_y.view, 0);
    }

    template <class Out>
    void product(const std::string& name, const Operand<Cuda, BFloat16>& a,
                 const Operand<Cuda, BFloat16>& b, float beta) const {
        const Matrix<Out> out(stream_, a.rows(), b.columns());
        const Timing time = measure(stream_, budget_, [&] {
            matmul(stream_, Matmul<Cuda, BFloat16, BFloat16, Out>{
                                .a = a, .b = b, .out = out.view, .beta = beta});
        });
        const auto m = static_cast<double>(a.rows());
        const auto k = static_cast<double>(a.columns());
        const auto n = static_cast<double>(b.columns());
        const double written = sizeof(Out) * m * n * (beta == 0 ? 1 : 2);
        print_line(name, {{"flop", 2 * m * n * k},
                          {"bytes", sizeof(BFloat16) * (m * k + k * n) + written},
                          {"seconds", time.median},
                          {"best", time.best},
                          {"m", m},
                          {"n", n},
                          {"k", k}});
    }

private:
    const Stream<Cuda>& stream_;
    const Settings& settings_;
    double budget_;
};

void square(const Rates& rates, const Stream<Cuda>& stream, Index size) {
    const Matrix<BFloat16> a(stream, size, size);
    const Matrix<BFloat16> b(stream, size, size);
    rates.product<BFloat16>("square", a.view, transposed(b.view), 0);
    rates.product<BFloat16>("square_dgrad", a.view, b.view, 0);
    rates.product<float>("square_float", a.view, transposed(b.view), 0);
    rates.product<float>("square_add", a.view, transposed(b.view), 1);
}

void shapes(const Rates& rates, const Settings& settings) {
    const Index width = settings.index("width");
    const Index kv = settings.index("kv_width");
    const Index mlp = settings.index("mlp_width");
    rates.forward("q", width, width, false);
    rates.forward("kv", kv, width, false);
    rates.forward("o", width, width, true);
    rates.forward("gate_up", mlp, width, false);
    rates.forward("down", width, mlp, true);
    rates.backward("q_dgrad", width, width, false);
    rates.backward("kv_dgrad", kv, width, true);
    rates.backward("o_dgrad", width, width, false);
    rates.backward("gate_dgrad", mlp, width, false);
    rates.backward("up_dgrad", mlp, width, true);
    rates.backward("down_dgrad", width, mlp, false);
    rates.forward("lora_down", lora_rank, width, false);
    rates.backward("lora_up", lora_rank, width, true);
    rates.factor_gradient("lora_gradient", std::min<Index>(settings.index("tokens"), 4096), width);
}

// The head's two products, over a tile of tokens.
void head(const Rates& rates, const Stream<Cuda>& stream, const Settings& settings) {
    const Index rows = std::min<Index>(settings.index("tokens"), 4096);
    const Index width = settings.index("width");
    const Index vocabulary = settings.index("vocabulary");
    const Matrix<BFloat16> h(stream, rows, width);
    const Matrix<BFloat16> weight(stream, vocabulary, width, 0.02);
    const Matrix<BFloat16> d_logits(stream, rows, vocabulary);
    rates.product<float>("head", h.view, transposed(weight.view), 0);
    rates.product<float>("head_dgrad", d_logits.view, weight.view, 0);
}

}  // namespace

int main(int argc, char** argv) {
    return run([&](const Stream<Cuda>& stream) {
        const Settings settings({{"tokens", "32768"},
                                 {"width", "4096"},
                                 {"kv_width", "4096"},
                                 {"mlp_width", "11008"},
                                 {"vocabulary", "32000"},
                                 {"square", "8192"},
                                 {"copy_mib", "1024"},
                                 {"shapes", "1"},
                                 {"seconds", "0.5"}},
                                argc, argv);
        const Rates rates(stream, settings);
        if (settings.index("copy_mib") > 0) {
            rates.copies();
        }
        square(rates, stream, settings.index("square"));
        if (settings.index("shapes") > 0) {
            shapes(rates, settings);
            head(rates, stream, settings);
        }
    });
}
