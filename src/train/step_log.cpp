#include "train/step_log.hpp"

#include <sys/resource.h>

#include <chrono>
#include <string>

#include "core/device_memory.hpp"

namespace longlora {
namespace {

constexpr std::size_t phases = static_cast<std::size_t>(Phase::count);

std::vector<double> seconds_by_phase(const PhaseTimer& timer) {
    std::vector<double> seconds;
    for (std::size_t p = 1; p < phases; ++p) {  // 0 is `other`
        seconds.push_back(timer.seconds(static_cast<Phase>(p)));
    }
    return seconds;
}

View<Cpu, double, 1> view(std::vector<double>& values) {
    return {values.data(), static_cast<Index>(values.size())};
}

}  // namespace

std::vector<LogQuantity> step_quantities() {
    std::vector<LogQuantity> quantities = {{"step", true}};
    for (const char* name :
         {"loss", "learning_rate", "gradient_norm", "tokens", "seconds", "tokens_per_second",
          "flops_per_second", "peak_bytes_host", "peak_bytes_device", "halo_bytes"}) {
        quantities.push_back({name});
    }
    for (std::size_t p = 1; p < phases; ++p) {
        for (const char* over_ranks : {"min", "mean", "max"}) {
            quantities.push_back(
                {std::string("seconds_") + phase_name(static_cast<Phase>(p)) + "_" + over_ranks});
        }
    }
    return quantities;
}

std::vector<double> step_values(const StepRecord& record, const PhaseTimer& timer,
                                const Communicator<Cpu>& world) {
    auto least = seconds_by_phase(timer);
    auto sum = least;
    auto most = least;
    most.push_back(peak_resident_bytes());
    most.push_back(static_cast<double>(peak_cuda_memory()));
    world.all_reduce_min(view(least));
    world.all_reduce_sum(view(sum));
    world.all_reduce_max(view(most));
    std::vector<double> values = {static_cast<double>(record.step),
                                  record.loss,
                                  record.learning_rate,
                                  record.gradient_norm,
                                  record.tokens,
                                  record.seconds,
                                  record.tokens / record.seconds,
                                  record.flops / record.seconds,
                                  most[most.size() - 2],
                                  most.back(),
                                  record.halo_bytes};
    for (std::size_t p = 0; p < least.size(); ++p) {
        values.insert(values.end(), {least[p], sum[p] / world.size(), most[p]});
    }
    return values;
}

double now_seconds() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

double peak_resident_bytes() {
    struct rusage usage {};
    getrusage(RUSAGE_SELF, &usage);
    return 1024.0 * static_cast<double>(usage.ru_maxrss);
}

}  // namespace longlora
