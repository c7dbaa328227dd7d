#include "commands/dry_run.hpp"

#include <cmath>

#include "commands/threads.hpp"
#include "core/terminal.hpp"
#include "core/text.hpp"
#include "kernels/matmul.hpp"
#include "plan/flops.hpp"
#include "sequence/left_context.hpp"

namespace longlora {
namespace {

std::string shards_text(const Layout& layout) {
    const auto length = std::to_string(layout.shard_length());
    std::string text = std::to_string(layout.shards()) + " shards of " + length + " tokens (" +
                       std::to_string(layout.ranks) + " sequence ranks x " +
                       std::to_string(layout.chunks) + " chunks)";
    if (layout.pattern != Pattern::full) {
        text += layout.is_aligned() ? ", aligned with half-groups of "
                                    : ", not aligned with half-groups of ";
        text += std::to_string(layout.half());
    }
    return text;
}

std::string bits_text(const DryRun& run) {
    const auto only_here = [](const std::string& reason) {
        return "the same in every run on this layout (" + reason + ")";
    };
    if (run.options.train.deterministic == choice::Deterministic::run) {
        return only_here("train.deterministic run");
    }
    if (run.plan.layout.pattern == Pattern::full) {
        return only_here("full attention");
    }
    if (!run.plan.layout.is_aligned()) {
        return only_here("shards are not whole half-groups");
    }
    if (!matmul_rows_are_independent()) {
        return only_here("BLAS products: no vectors of 8 floats here");
    }
    return "the same on every layout whose shards are whole half-groups";
}

std::string traffic_text(const DryRun& run) {
    const LlamaConfig& config = run.setup.config;
    const Traffic traffic = training_traffic(run.plan.layout, {config.heads, config.kv_heads},
                                             config.head_dim, config.layers);
    const auto batch = static_cast<double>(run.options.train.batch);
    const auto element = on_device(
        run.device, [](auto kind) { return static_cast<double>(sizeof(Element<decltype(kind)>)); });
    const double forward = batch * traffic.forward * element;
    const double backward = batch * traffic.backward * sizeof(float);
    return format_bytes(forward) + " of K/V and " + format_bytes(backward) + " of dK/dV a step (" +
           format_number(forward + backward, 15) + " bytes), all ranks together";
}

// Where the host could spare a GPU work.
std::string offload_text(const DryRun& run) {
    constexpr double gib = 1U << 30U;
    const double bytes = run.plan.recomputed_bytes;
    if (run.device == DeviceKind::cpu || run.options.train.offload > 0 || bytes == 0) {
        return "";
    }
    return "; --train.offload " + format_number(std::ceil(10 * bytes / gib) / 10, 6) +
           " would leave that on the host";
}

}  // namespace

void print_dry_run(const DryRun& run, const Communicator<Cpu>& world) {
    const std::string where = placement(world);
    std::vector<double> most;
    for (const auto& part : run.plan.memory.parts) {
        most.push_back(world.max(part.second));
    }
    const double total = world.max(run.plan.memory.total());
    const double host = world.max(run.plan.memory.host);
    if (world.rank() != 0) {
        return;
    }
    const auto trainables = trainable_parameters(run.setup.config, run.setup.tune);
    say("model         " + run.setup.base.name() + ", " +
        format_count(static_cast<double>(parameter_count(trainables))) + " trainable in " +
        std::to_string(trainables.size()) + " tensors");
    say("mesh          " + std::to_string(world.size() / run.plan.layout.ranks) + " data x " +
        std::to_string(run.plan.layout.ranks) + " sequence");
    say("shards        " + shards_text(run.plan.layout));
    say("bits          " + bits_text(run));
    say("activations   " + kept_text(run.plan) + offload_text(run));
    say("left context  " + traffic_text(run));
    say("work          " +
        format_count(static_cast<double>(run.options.train.batch) *
                     row_flops(run.setup.config, run.setup.tune, run.plan.layout)) +
        "FLOP a step");
    Table memory({"memory of a rank", "bytes", ""});
    for (std::size_t i = 0; i < most.size(); ++i) {
        memory.add(
            {run.plan.memory.parts[i].first, format_number(most[i], 15), format_bytes(most[i])});
    }
    memory.add({"total", format_number(total, 15), format_bytes(total)});
    say(memory.text());
    say("available     " + format_bytes(run.plan.available) + " a rank");
    if (host > 0) {
        say("host          " + format_bytes(host) +
            " a rank, pinned: kept K/V, offloaded activations");
    }
    say("placement     " + where);
    say("directory     " + run.folder + " (nothing was written)");
}

}  // namespace longlora
