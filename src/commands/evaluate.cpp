#include <filesystem>

#include "comm/agree.hpp"
#include "comm/environment.hpp"
#include "commands/command_list.hpp"
#include "commands/data_check.hpp"
#include "commands/session.hpp"
#include "commands/threads.hpp"
#include "core/terminal.hpp"
#include "core/text.hpp"
#include "evaluate/logits.hpp"
#include "io/run_log.hpp"
#include "train/perplexity_task.hpp"
#include "train/resume.hpp"

namespace longlora {
namespace {

std::string model_kind(const Options& options, const ModelSetup& setup) {
    if (uses_run(options) || setup.base.adapter() != nullptr) {
        return "trained";
    }
    return setup.config.rope == setup.base.config().rope ? "base" : "interpolated";
}

void print(const std::vector<Perplexity>& results) {
    Table table({"context", "scored tokens", "perplexity"});
    for (const Perplexity& result : results) {
        table.add({std::to_string(result.context), std::to_string(result.scored),
                   format_number(result.value, 6)});
    }
    say(table.text());
}

void append(const std::vector<EvaluationRow>& rows, const RunFolder& folder) {
    RunLog log = RunLog::extend(folder.log(), [](const std::string& text) { warn(text); });
    for (const EvaluationRow& row : rows) {
        log.append_evaluation(row);
    }
    log.close();
    say("rows added to /evaluations of " + folder.log());
}

}  // namespace

int evaluate_command(Options options) {
    const auto world = Communicator<Cpu>::world();
    set_communication_timeout(options.comm.timeout);
    const RunFolder folder{options.run_directory()};
    const OpenedRun run = open_run(options, folder, "evaluate");
    const ModelSetup& setup = run.setup;
    const auto data = agree([&] {
        require(!options.data.validation.empty(),
                "evaluate needs held-out tokens: set data.validation to a tokens.h5, .bin or .npy "
                "file");
        TokenStream stream(options.data.validation, setup.config.vocabulary);
        check_tokenizer(stream, options.model.path);
        return stream;
    });
    const auto session = open_session<Cpu>(setup, static_cast<std::uint64_t>(options.run.seed));
    Index step = 0;
    if (run.saved) {
        Optimizer<Cpu> optimizer(session->parameters, world);
        step = load_trainables(session->parameters, optimizer, folder, world)->step;
    }
    const Stream<Cpu> stream(options.parallel.threads > 0
                                 ? static_cast<int>(options.parallel.threads)
                                 : threads_per_rank(world));
    PerplexityEvaluator<Cpu> evaluator(setup.config, setup.tune);
    const auto results = evaluator.run(session->model, data, perplexity_task(options), stream);
    if (!options.evaluate.dump_logits.empty()) {
        dump_logits({options.evaluate.dump_logits, options.evaluation_contexts().front()},
                    session->model, setup.tune, data, stream);
    }
    std::vector<EvaluationRow> rows;
    for (const Perplexity& result : results) {
        rows.push_back({step, model_kind(options, setup), protocol_name(options), result.context,
                        result.scored, result.value});
    }
    agree([&] {
        if (world.rank() == 0) {
            print(results);
            if (std::filesystem::exists(folder.log())) {
                append(rows, folder);
            }
        }
    });
    return static_cast<int>(ExitCode::done);
}

}  // namespace longlora
