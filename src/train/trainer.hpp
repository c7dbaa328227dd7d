#pragma once

#include <memory>
#include <optional>
#include <string>

#include "comm/mesh.hpp"
#include "core/error.hpp"
#include "core/progress.hpp"
#include "data/sampler.hpp"
#include "data/token_stream.hpp"
#include "evaluate/perplexity.hpp"
#include "io/run_log.hpp"
#include "model/llama.hpp"
#include "options/options.hpp"
#include "plan/run_plan.hpp"
#include "train/optimizer.hpp"
#include "train/run_folder.hpp"
#include "train/step_log.hpp"
#include "train/two_pass.hpp"

namespace longlora {

// What a run is made of, resolved: no option is `auto` any more.
template <class Device>
struct TrainerSetup {
    Options options;
    Tune tune;
    LlamaConfig base_config;  // as the base's config.json says
    LlamaConfig config;       // with the rope scaling of the run
    RunPlan plan;
    RunFolder folder;
    Attributes
        attributes;  // of log and checkpoints: options, version, mesh, device, base fingerprint
    int threads;
    FolderLock lock;  // of the run's folder, by rank 0 (lock_run)
};

// The loop: rows of (seed, step) through the two-pass schedule, gradient sum, optimiser, log,
// evaluation, checkpoint; stops when asked to, resumes where the newest checkpoint stands.
template <class Device>
class Trainer {
public:
    Trainer(TrainerSetup<Device> setup, Mesh<Device>& mesh, Parameters<Device>& parameters,
            WeightStore<Device>& store);

    // Collective. Reads the newest intact checkpoint if there is one; the step it stands at.
    Index resume();
    ExitCode run();

private:
    struct Batch {
        double labels = 0;            // of all rows, world-wide
        std::vector<Index> own_rows;  // rows of the stream that this replica trains
        Index turns = 0;              // rows of the replica that has most
    };
    Batch batch_of(Index step) const;
    bool should_stop() const;

    // One optimiser step; nothing when it was given up because the run must stop.
    std::optional<StepRecord> train_step(Index step);
    std::optional<double> accumulate_rows(Index step, const Batch& batch);
    void update(StepRecord& record);
    void note_bad_step(const StepRecord& record);
    void dump_gradients(double loss);

    void open_log();
    void log_step(const StepRecord& record);
    void log_event(Index step, const std::string& kind, const std::string& message);
    void save(Index step);
    ExitCode stop(Index step);

    // Only what the log does not have yet; nothing without validation data. False when given up
    // because the run must stop: it goes on where it is started again.
    bool evaluate_start();
    bool evaluate_if_due();
    bool evaluate(Index step, const std::string& name, const Llama<Device>& model);
    std::vector<Index> missing_contexts(Index step, const std::string& name) const;
    std::string evaluation_title() const;
    std::string evaluation_table() const;
    ExitCode finish(Index step);

    TrainerSetup<Device> setup_;
    Mesh<Device>& mesh_;
    Parameters<Device>& parameters_;
    WeightStore<Device>& store_;
    Stream<Device> stream_;
    PhaseTimer timer_;
    Llama<Device> model_;
    Arena<Device> arena_;
    TwoPass<Device> two_pass_;
    Optimizer<Device> optimizer_;
    TokenStream data_;
    std::optional<TokenStream> validation_;
    PerplexityEvaluator<Device> evaluator_;
    RowOrder rows_;
    double row_flops_;
    std::optional<RunLog> log_;  // rank 0
    std::optional<Progress> progress_;
    std::vector<EvaluationRow> evaluations_;
    Index done_ = 0;    // steps
    Index saved_ = -1;  // step of the newest checkpoint
    double tokens_seen_ = 0;
    Index bad_steps_ = 0;  // in a row
    double step_start_ = 0;
    bool has_all_memory_ = false;  // a whole step has run
};

}  // namespace longlora
