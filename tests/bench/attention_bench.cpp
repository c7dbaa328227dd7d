// GFLOP/s of attention on one thread, one head and half-group at a time, packing included, counting
// visible pairs only (4 D a pair forward, 10 D backward):  attention_bench [rounds]
#include <algorithm>
#include <chrono>
#include <iomanip>
#include <iostream>
#include <string>
#include <vector>

#include "core/random.hpp"
#include "kernels/attention.hpp"

using namespace longlora;

namespace {

struct Setting {
    Index head_dim;
    Index half_group;
    bool has_square;  // the previous half-group is seen too
};

struct Tensor {
    Tensor(Index rows, Index columns) : rows(rows), columns(columns) {
        for (Index i = 0; i < rows * columns; ++i) {
            const auto index = static_cast<std::uint64_t>(i);
            data.push_back(static_cast<float>(3.4 * random_uniform(7, index) - 1.7));
        }
    }
    View<Cpu, float, 2> view() { return {data.data(), rows, columns}; }

    Index rows;
    Index columns;
    std::vector<float> data;
};

template <class F>
double seconds(const F& run) {
    const auto begin = std::chrono::steady_clock::now();
    run();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

void report(const std::string& pass, double flop, std::vector<double> times) {
    std::sort(times.begin(), times.end());
    std::cout << "  " << pass << " best " << flop / times.front() / 1e9 << " median "
              << flop / times[times.size() / 2] / 1e9;
}

void measure(const Setting& setting, int rounds) {
    constexpr Index heads = 12;
    const Index h = setting.half_group;
    const Index columns = heads * setting.head_dim;
    Tensor q(2 * h, columns), k(2 * h, columns), v(2 * h, columns), d_out(2 * h, columns);
    Tensor out(2 * h, columns), lse(heads, 2 * h), delta(heads, 2 * h);
    Tensor d_q(2 * h, columns), d_k(2 * h, columns), d_v(2 * h, columns);
    const Index pairs = h * (h + 1) / 2 + (setting.has_square ? h * h : 0);
    const auto flop = static_cast<double>(pairs * setting.head_dim);
    const Stream<Cpu> stream;
    const KeyValueBlock<Cpu> block{k.view(), v.view()};
    std::vector<double> forward;
    std::vector<double> backward;
    for (Index round = 0; round < rounds * heads; ++round) {
        const Range head{round % heads, round % heads + 1};
        std::vector<AttentionItem> items = {{head, {h, 2 * h}, {h, 2 * h}, true}};
        if (setting.has_square) {
            items.insert(items.begin(), {head, {h, 2 * h}, {0, h}, false});
        }
        attention_reset(stream, {.out = out.view(), .lse = lse.view()});
        forward.push_back(seconds([&] {
            attention_forward(stream, {.q = q.view(),
                                       .block = block,
                                       .items = items,
                                       .head_dim = setting.head_dim,
                                       .queries_per_kv = 1,
                                       .out = out.view(),
                                       .lse = lse.view()});
        }));
        attention_delta(stream, {.d_out = d_out.view(), .out = out.view(), .delta = delta.view()});
        backward.push_back(seconds([&] {
            attention_backward(stream, {.q = q.view(),
                                        .block = block,
                                        .items = items,
                                        .head_dim = setting.head_dim,
                                        .queries_per_kv = 1,
                                        .d_out = d_out.view(),
                                        .lse = lse.view(),
                                        .delta = delta.view(),
                                        .d_q = d_q.view(),
                                        .d_k = d_k.view(),
                                        .d_v = d_v.view()});
        }));
    }
    std::cout << "D " << setting.head_dim << ", h " << h
              << (setting.has_square ? ", square + triangle:" : ", triangle:");
    report("forward", 4 * flop, forward);
    report("backward", 10 * flop, backward);
    std::cout << " GFLOP/s\n";
}

}  // namespace

int main(int argc, char** argv) {
    const int rounds = argc > 1 ? std::stoi(argv[1]) : 15;
    std::cout << std::fixed << std::setprecision(1);
    for (const Index head_dim : {8, 16, 64, 128}) {
        for (const Index half_group : {512, 1024}) {
            measure({head_dim, half_group, false}, rounds);
            measure({head_dim, half_group, true}, rounds);
        }
    }
}
