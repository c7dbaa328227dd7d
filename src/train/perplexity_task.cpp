#include "train/perplexity_task.hpp"

namespace longlora {

PerplexityTask perplexity_task(const Options& options) {
    PerplexityTask task{options.evaluation_contexts(), options.evaluate.stride,
                        options.evaluate.tokens};
    if (options.evaluate.protocol == choice::Protocol::longlora) {
        task.scoring = Scoring::longlora;
    }
    if (options.evaluate.attention == choice::Attention::s2) {
        task.visibility = {options.attention.pattern, options.attention.group,
                           options.attention.boundary};
    }
    return task;
}

std::string protocol_name(const Options& options) {
    const bool is_full = options.evaluate.attention == choice::Attention::full ||
                         options.attention.pattern == Pattern::full;
    return to_text(options.evaluate.protocol) +
           (is_full ? "" : " " + to_text(options.attention.pattern));
}

}  // namespace longlora
