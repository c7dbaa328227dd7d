#include <algorithm>
#include <chrono>
#include <cmath>

#include "comm/agree.hpp"
#include "core/fault_point.hpp"
#include "core/terminal.hpp"
#include "core/text.hpp"
#include "train/perplexity_task.hpp"
#include "train/trainer.hpp"

// What a run tells: log.h5, evaluations, the closing summary.
namespace longlora {

template <class Device>
void Trainer<Device>::open_log() {
    agree([&] {
        if (!mesh_.is_root()) {
            return;
        }
        if (!setup_.lock.is_held()) {
            setup_.lock = begin_run(setup_.folder);
        }
        make_folders(setup_.folder.checkpoints());
        remove_unfinished_checkpoints(setup_.folder.checkpoints());
        set_aside_later_checkpoints(setup_.folder.checkpoints(), done_,
                                    [](const std::string& text) { warn(text); });
        const auto quantities = step_quantities();
        log_.emplace(RunLog::resume(setup_.folder.log(), setup_.attributes, quantities,
                                    {done_, std::move(setup_.lock)},
                                    [](const std::string& text) { warn(text); }));
        evaluations_ = read_log(setup_.folder.log()).evaluations;
    });
    log_event(done_, done_ == 0 ? "started" : "resumed",
              std::to_string(mesh_.world().size()) + " ranks");
}

template <class Device>
void Trainer<Device>::log_event(Index step, const std::string& kind, const std::string& message) {
    if (log_) {
        const auto time = std::chrono::system_clock::now().time_since_epoch();
        log_->append_event({std::chrono::duration<double>(time).count(), step, kind, message});
    }
}

template <class Device>
void Trainer<Device>::log_step(const StepRecord& record) {
    const auto values = step_values(record, timer_, mesh_.world());
    if (!log_) {
        return;
    }
    log_->append_step(values);
    progress_->done({record.step, record.loss, record.tokens, record.seconds});
}

// Contexts that the log lacks for this model at this step: all, or, after a kill, those that were
// not reached. Rank 0 has the log.
template <class Device>
std::vector<Index> Trainer<Device>::missing_contexts(Index step, const std::string& name) const {
    std::vector<Index> missing;
    for (const Index context : setup_.options.evaluation_contexts()) {
        const bool is_here =
            std::any_of(evaluations_.begin(), evaluations_.end(), [&](const EvaluationRow& row) {
                return row.model == name && row.step == step && row.context == context &&
                       row.protocol == protocol_name(setup_.options);
            });
        if (mesh_.world().max(static_cast<std::int64_t>(is_here)) == 0) {
            missing.push_back(context);
        }
    }
    return missing;
}

// The base as it is and, where positions are interpolated, with interpolation only: what training
// has to beat. Once, before the first step. A run that goes on may owe an evaluation.
template <class Device>
bool Trainer<Device>::evaluate_start() {
    if (done_ > 0) {
        return evaluate_if_due();
    }
    return evaluate(0, "base",
                    Llama<Device>(setup_.base_config, setup_.tune, parameters_, store_)) &&
           (setup_.base_config.rope == setup_.config.rope || evaluate(0, "interpolated", model_));
}

template <class Device>
bool Trainer<Device>::evaluate_if_due() {
    const Index every = setup_.options.evaluate.every;
    const bool is_due = every > 0 && done_ % every == 0 && done_ < setup_.options.train.steps;
    return !is_due || evaluate(done_, "trained", model_);
}

template <class Device>
bool Trainer<Device>::evaluate(Index step, const std::string& name, const Llama<Device>& model) {
    const auto contexts = validation_ ? missing_contexts(step, name) : std::vector<Index>();
    if (contexts.empty()) {
        return true;
    }
    if (progress_) {
        progress_->end();
    }
    // Of all contexts, also where a few are missing: the same tokens in every cell.
    PerplexityTask task = perplexity_task(setup_.options);
    task.tokens = agree([&] { return scored_labels(task, *validation_); });
    task.contexts = contexts;
    task.should_stop = [this] { return should_stop(); };
    step_start_ = now_seconds();
    const auto results = evaluator_.run(model, *validation_, task, stream_);
    const bool is_complete = results.size() == contexts.size();
    if (!log_) {
        return is_complete;
    }
    std::string line = "perplexity, " + name + ", step " + std::to_string(step) + ":";
    for (const Perplexity& result : results) {
        const EvaluationRow row{step,           name,          protocol_name(setup_.options),
                                result.context, result.scored, result.value};
        log_->append_evaluation(row);
        evaluations_.push_back(row);
        line += "  " + std::to_string(result.context) + ": " + format_number(result.value);
    }
    if (!results.empty()) {
        say(line);
    }
    return is_complete;
}

template <class Device>
std::string Trainer<Device>::evaluation_title() const {
    const Options& options = setup_.options;
    const std::string attention = options.evaluate.attention == choice::Attention::full
                                      ? "full attention, "
                                      : to_text(options.attention.pattern) + " attention, ";
    return attention + (options.evaluate.protocol == choice::Protocol::sliding
                            ? "the same " + std::to_string(evaluations_.back().scored_tokens) +
                                  " tokens in every cell"
                            : "all tokens of every window");
}

// One row for each model, one column for each context; the newest value counts.
template <class Device>
std::string Trainer<Device>::evaluation_table() const {
    std::vector<std::string> header = {"perplexity by context"};
    const auto contexts = setup_.options.evaluation_contexts();
    for (const Index context : contexts) {
        header.push_back(std::to_string(context));
    }
    Table table(header);
    struct Row {
        std::string model;
        std::string title;
    };
    const std::vector<Row> models = {
        {"base", "base as it is"},
        {"interpolated", "position interpolation only"},
        {"trained", setup_.tune.mode == TuneMode::full ? "after training" : "after LongLoRA"}};
    for (const Row& line : models) {
        std::vector<std::string> cells = {line.title};
        for (const Index context : contexts) {
            const auto newest = std::find_if(
                evaluations_.rbegin(), evaluations_.rend(), [&](const EvaluationRow& row) {
                    return row.model == line.model && row.context == context &&
                           row.protocol == protocol_name(setup_.options);
                });
            cells.push_back(newest == evaluations_.rend() ? "-"
                                                          : format_number(newest->perplexity));
        }
        if (std::any_of(cells.begin() + 1, cells.end(),
                        [](const auto& cell) { return cell != "-"; })) {
            table.add(cells);
        }
    }
    return table.text();
}

template <class Device>
ExitCode Trainer<Device>::finish(Index step) {
    fault_point("finish");
    if (progress_) {
        progress_->end();
    }
    if (!evaluate(step, "trained", model_)) {
        return stop(step);
    }
    fault_point("finished");
    log_event(step, finished_event, format_count(tokens_seen_) + " tokens");
    if (!log_) {
        return ExitCode::done;
    }
    fault_point("close_log");
    log_->close();
    if (validation_) {
        say("\nheld-out perplexity, " + evaluation_title() + "\n" + evaluation_table() + "\n");
    }
    say("log         " + setup_.folder.log());
    say("checkpoint  " + checkpoint_path(setup_.folder.checkpoints(), step));
    return ExitCode::done;
}

#define LONGLORA_INSTANTIATE_MEMBERS(Device)                                                  \
    template void Trainer<Device>::open_log();                                                \
    template void Trainer<Device>::log_event(Index, const std::string&, const std::string&);  \
    template void Trainer<Device>::log_step(const StepRecord&);                               \
    template bool Trainer<Device>::evaluate_start();                                          \
    template bool Trainer<Device>::evaluate_if_due();                                         \
    template bool Trainer<Device>::evaluate(Index, const std::string&, const Llama<Device>&); \
    template ExitCode Trainer<Device>::finish(Index);
LONGLORA_FOR_EACH_DEVICE(LONGLORA_INSTANTIATE_MEMBERS)

}  // namespace longlora
