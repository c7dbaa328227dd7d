// The machine's FMA peak, the measure of all other figures: GFLOP/s of one thread and of n threads at once, with the
// widest vectors there are; best and mean of pieces of 1 ms:  fma_bench [threads] [seconds]
// prints for 1 and for n threads:  threads=2 best=207.1 mean=191.3
#define HWY_TARGET_INCLUDE "tests/bench/fma_bench.cpp"
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)  // as kernels/cpu/simd.hpp

#include <algorithm>
#include <barrier>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace longlora::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

constexpr int chains = 12;  // a core has 8 to 10 FMAs in flight

// Twelve independent chains of FMAs, by name, since g++ 12 spills an array of them. They begin at other numbers, or they
// would be one chain to the compiler, and tend to 1.
float fma_loop(std::int64_t rounds, float shrink) {
    const hn::ScalableTag<float> tag;
    const auto x = hn::Set(tag, shrink);
    const auto y = hn::Set(tag, 1 - shrink);
    auto a = hn::Iota(tag, 0);
    auto b = hn::Iota(tag, 1);
    auto c = hn::Iota(tag, 2);
    auto d = hn::Iota(tag, 3);
    auto e = hn::Iota(tag, 4);
    auto f = hn::Iota(tag, 5);
    auto g = hn::Iota(tag, 6);
    auto h = hn::Iota(tag, 7);
    auto i = hn::Iota(tag, 8);
    auto j = hn::Iota(tag, 9);
    auto k = hn::Iota(tag, 10);
    auto l = hn::Iota(tag, 11);
    for (std::int64_t round = 0; round < rounds; ++round) {
        a = hn::MulAdd(a, x, y);
        b = hn::MulAdd(b, x, y);
        c = hn::MulAdd(c, x, y);
        d = hn::MulAdd(d, x, y);
        e = hn::MulAdd(e, x, y);
        f = hn::MulAdd(f, x, y);
        g = hn::MulAdd(g, x, y);
        h = hn::MulAdd(h, x, y);
        i = hn::MulAdd(i, x, y);
        j = hn::MulAdd(j, x, y);
        k = hn::MulAdd(k, x, y);
        l = hn::MulAdd(l, x, y);
    }
    const auto first = hn::Add(hn::Add(hn::Add(a, b), hn::Add(c, d)), hn::Add(e, f));
    const auto second = hn::Add(hn::Add(hn::Add(g, h), hn::Add(i, j)), hn::Add(k, l));
    return hn::GetLane(hn::SumOfLanes(tag, hn::Add(first, second)));
}

double flop_of_round() {
    return 2.0 * chains * static_cast<double>(hn::Lanes(hn::ScalableTag<float>()));
}

}  // namespace longlora::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace longlora {
namespace {

HWY_EXPORT(fma_loop);
HWY_EXPORT(flop_of_round);

using Clock = std::chrono::steady_clock;

volatile float sink;  // what is read by nobody would be computed by nobody

double seconds_of(std::int64_t rounds) {
    const auto begin = Clock::now();
    sink = HWY_DYNAMIC_DISPATCH(fma_loop)(rounds, 0.999F);
    return std::chrono::duration<double>(Clock::now() - begin).count();
}

// The shortest of several tries: whoever interrupts makes a piece longer, never shorter.
std::int64_t rounds_of_a_millisecond() {
    constexpr std::int64_t probe = 100'000;
    double shortest = seconds_of(probe);
    for (int i = 0; i < 20; ++i) {
        shortest = std::min(shortest, seconds_of(probe));
    }
    return static_cast<std::int64_t>(probe * 1e-3 / shortest);
}

// All threads begin each piece together, and a piece lasts as long as its slowest thread: the best is a rate that all
// of them reached at once.
void measure(int threads, double seconds) {
    const std::int64_t rounds = rounds_of_a_millisecond();
    const double flop =
        HWY_DYNAMIC_DISPATCH(flop_of_round)() * static_cast<double>(rounds) * threads;
    const auto pieces = std::max(1, static_cast<int>(seconds * 1e3));
    std::vector<double> longest(static_cast<std::size_t>(pieces));
    std::vector<double> times(static_cast<std::size_t>(threads));
    std::size_t piece = 0;
    std::barrier together(threads, [&]() noexcept {
        if (piece > 0 && piece <= longest.size()) {
            longest[piece - 1] = *std::max_element(times.begin(), times.end());
        }
        ++piece;
    });
    std::vector<std::jthread> crew;
    for (int t = 0; t < threads; ++t) {
        crew.emplace_back([&, t] {
            for (int p = 0; p < pieces; ++p) {
                together.arrive_and_wait();
                times[static_cast<std::size_t>(t)] = seconds_of(rounds);
            }
            together.arrive_and_wait();
        });
    }
    crew.clear();  // joins
    double sum = 0;
    for (const double time : longest) {
        sum += time;
    }
    std::cout << "threads=" << threads
              << " best=" << flop / *std::min_element(longest.begin(), longest.end()) / 1e9
              << " mean=" << flop * pieces / sum / 1e9 << '\n';
}

}  // namespace
}  // namespace longlora

int main(int argc, char** argv) {
    const int cores = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
    const int threads = argc > 1 ? std::stoi(argv[1]) : cores;
    const double seconds = argc > 2 ? std::stod(argv[2]) : 1.0;
    longlora::measure(1, seconds);
    if (threads > 1) {
        longlora::measure(threads, seconds);
    }
}
#endif
