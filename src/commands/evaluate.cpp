#include <filesystem>

#include "comm/agree.hpp"
#include "comm/environment.hpp"
#include "commands/command_list.hpp"
#include "commands/data_check.hpp"
#include "commands/device_choice.hpp"
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

std::string model_kind(const OpenedRun& run) {
    const ModelSetup& setup = run.setup;
    if (run.saved || setup.base.adapter() != nullptr) {
        return "trained";
    }
    return setup.config.rope == setup.base.config().rope ? "base" : "interpolated";
}

void print(const std::vector<EvaluationRow>& rows) {
    Table table({"context", "scored tokens", "perplexity"});
    for (const EvaluationRow& row : rows) {
        table.add({std::to_string(row.context), std::to_string(row.scored_tokens),
                   format_number(row.perplexity, 6)});
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

// A run that is still being written can be evaluated all the same; what was computed has been told.
void try_to_append(const std::vector<EvaluationRow>& rows, const RunFolder& folder) {
    try {
        append(rows, folder);
    } catch (const Error& error) {
        if (error.code() != ExitCode::bad_input) {
            throw;
        }
        warn("no rows added to /evaluations of " + folder.log() + ": " + error.what());
    }
}

// What an evaluation works on.
struct Task {
    const Options& options;
    const OpenedRun& run;
    const TokenStream& data;
    const RunFolder& folder;
};

template <class Device>
std::vector<EvaluationRow> evaluate_on(const Task& task, int threads) {
    const Options& options = task.options;
    const ModelSetup& setup = task.run.setup;
    const auto world = Communicator<Device>::world();
    const auto session =
        open_session<Device>(setup, static_cast<std::uint64_t>(options.run.seed), threads);
    const Stream<Device>& stream = session->stream;
    Index step = 0;
    if (task.run.saved) {
        Optimizer<Device> optimizer(session->parameters, world);
        step = load_trainables(stream, session->parameters, optimizer, task.folder, world)->step;
        session->store.refresh(stream);
    }
    PerplexityEvaluator<Device> evaluator(setup.config, setup.tune);
    const auto results = evaluator.run(session->model, task.data, perplexity_task(options), stream);
    if (!options.evaluate.dump_logits.empty()) {
        dump_logits({options.evaluate.dump_logits, options.evaluation_contexts().front()},
                    session->model, setup.tune, task.data, stream);
    }
    std::vector<EvaluationRow> rows;
    for (const Perplexity& result : results) {
        rows.push_back({step, model_kind(task.run), protocol_name(options), result.context,
                        result.scored, result.value});
    }
    return rows;
}

}  // namespace

int evaluate_command(Options options) {
    const auto world = Communicator<Cpu>::world();
    set_communication_timeout(options.comm.timeout);
    const RunFolder folder{options.run_directory()};
    const OpenedRun run = open_run(options, folder, "evaluate");
    const auto data = agree([&] {
        require(!options.data.validation.empty(),
                "evaluate needs held-out tokens: set data.validation to a tokens.h5, .bin or .npy "
                "file");
        TokenStream stream(options.data.validation, run.setup.config.vocabulary);
        check_tokenizer(stream, options.model.path);
        return stream;
    });
    const int threads = options.parallel.threads > 0 ? static_cast<int>(options.parallel.threads)
                                                     : threads_per_rank(world);
    const DeviceChoice device = choose_device(options, world);
    const auto rows = on_device(device.kind, [&](auto kind) {
        return evaluate_on<decltype(kind)>({options, run, data, folder}, threads);
    });
    agree([&] {
        if (world.rank() == 0) {
            print(rows);
            if ((run.saved || options.names_run()) && std::filesystem::exists(folder.log())) {
                try_to_append(rows, folder);
            }
        }
    });
    return static_cast<int>(ExitCode::done);
}

}  // namespace longlora
