#include "commands/plan_request.hpp"

#include <cmath>

#include "comm/agree.hpp"
#include "comm/transport.hpp"
#include "train/perplexity_task.hpp"

namespace longlora {
namespace {

// Two communicators of NCCL's, one for halos and one for sums, of up to eight ranks. It tells nobody what they
// take: a cautious guess, never measured here.
constexpr double nccl_bytes = 2147483648.0;

// Training has taken a GPU's memory by the time of the first evaluation. On a CPU memory counts once it is
// used, and an evaluation gives its back.
void add_evaluation(PlanRequest& request, const Options& options) {
    const WindowBytes bytes = agree([&] {
        return on_device(request.device, [&](auto kind) {
            const PerplexityEvaluator<decltype(kind)> evaluator(request.config, request.tune);
            return evaluator.most_bytes(perplexity_task(options));
        });
    });
    request.besides.emplace_back("evaluation", static_cast<double>(bytes.arena));
    request.besides_on_host = static_cast<double>(bytes.host);
}

void add_what_lies_besides(PlanRequest& request, const Options& options) {
    if (!options.data.validation.empty()) {
        add_evaluation(request, options);
    }
    if (uses_nccl()) {
        request.besides.emplace_back("NCCL", nccl_bytes);
    }
}

}  // namespace

PlanRequest plan_request(const Options& options, const ModelSetup& setup,
                         const std::optional<SavedRun>& saved, DeviceKind device) {
    PlanRequest request{.config = setup.config,
                        .tune = setup.tune,
                        .length = options.sequence.length,
                        .group = options.attention_group(),
                        .pattern = options.attention.pattern,
                        .boundary = options.attention.boundary,
                        .sequence_ranks = options.parallel.sequence,
                        .chunks = options.sequence.chunks,
                        .offload = options.train.offload * std::ldexp(1.0, 30),
                        .device = device};
    if (options.train.activations != choice::Activations::automatic) {
        request.policy =
            static_cast<ActivationPolicy>(static_cast<int>(options.train.activations) - 1);
        request.keeps_what_fits = false;
    }
    if (saved && saved->attributes.contains("planned_chunks")) {
        request.earlier_chunks = std::get<std::int64_t>(saved->attributes.at("planned_chunks"));
    }
    if (saved && saved->attributes.contains("planned_activations")) {
        request.earlier_policy = static_cast<ActivationPolicy>(
            std::get<std::int64_t>(saved->attributes.at("planned_activations")));
    }
    if (device != DeviceKind::cpu) {
        add_what_lies_besides(request, options);
    }
    return request;
}

}  // namespace longlora
