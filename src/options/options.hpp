#pragma once

#include <limits>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "options/choices.hpp"
#include "sequence/layout.hpp"

// Every option, declared once: a member with its built-in value and, below it, one line of `each`
// with key, help, what a resume does with it and its limits. Command line, INI file, --help, the
// attributes of HDF5 files, range checks and the resume rules all come from these lines.
namespace longlora {

// What happens to an option when a run is resumed.
enum class OnResume {
    physics,  // may not change; the checkpoint's value holds unless the same value is given
    kept,     // may change; the checkpoint's value holds unless another one is given
    fresh     // belongs to this start (folder, machine, layout); the checkpoint's is not looked at
};

struct Limits {
    double least = -std::numeric_limits<double>::infinity();
    double most = std::numeric_limits<double>::infinity();
    bool with_least = true;
    bool with_most = true;
};
constexpr Limits at_least(double least) { return {.least = least}; }
constexpr Limits above(double least) { return {.least = least, .with_least = false}; }
constexpr Limits between(double least, double most) { return {.least = least, .most = most}; }
constexpr Limits fraction() { return {.least = 0, .most = 1, .with_most = false}; }  // [0, 1)

struct About {
    std::string_view help;
    OnResume on_resume;
    Limits limits = {};
};

struct Options {
    static constexpr OnResume physics = OnResume::physics;  // `using enum` here crashes GCC 12
    static constexpr OnResume kept = OnResume::kept;
    static constexpr OnResume fresh = OnResume::fresh;

    struct Run {
        std::string directory;
        std::string name = "longlora";
        choice::Resume resume = choice::Resume::automatic;
        Index keep = 2;
        Index seed = 1;

        static void each(auto& run, auto& visit) {
            visit("run.directory", run.directory, {"folder of the run; empty: runs/<name>", fresh});
            visit("run.name", run.name, {"name of the run", fresh});
            visit("run.resume", run.resume, {"go on with a run found there", fresh});
            visit("run.keep", run.keep, {"newest checkpoints kept", fresh, at_least(1)});
            visit("run.seed", run.seed, {"seed of rows and new weights", physics, at_least(0)});
        }
    } run;

    // The base: a Hugging Face directory, or random weights of these sizes.
    struct Model {
        std::string path;
        Index width = 256;
        Index layers = 4;
        Index heads = 8;
        Index kv_heads = 0;
        Index head_dim = 0;
        Index mlp_width = 688;
        Index vocabulary = 32000;
        bool is_tied = true;

        Index kv_head_count() const { return kv_heads > 0 ? kv_heads : heads; }
        Index head_size() const { return head_dim > 0 ? head_dim : width / heads; }

        static void each(auto& model, auto& visit) {
            // Not physics: another base is told by its fingerprint, and folders move.
            visit("model.path", model.path,
                  {"Hugging Face directory; empty: random weights of these sizes", kept});
            visit("model.width", model.width, {"hidden size", physics, at_least(1)});
            visit("model.layers", model.layers, {"layers", physics, at_least(1)});
            visit("model.heads", model.heads, {"query heads", physics, at_least(1)});
            visit("model.kv_heads", model.kv_heads,
                  {"key/value heads; 0: as many as query heads", physics, at_least(0)});
            visit("model.head_dim", model.head_dim,
                  {"size of a head; 0: width / heads", physics, at_least(0)});
            visit("model.mlp_width", model.mlp_width, {"MLP size", physics, at_least(1)});
            visit("model.vocabulary", model.vocabulary, {"vocabulary size", physics, at_least(2)});
            visit("model.tied", model.is_tied, {"the head is the embedding matrix", physics});
        }
    } model;

    struct Tune {
        choice::Mode mode = choice::Mode::lora_plus;
        Index rank = 8;
        double alpha = 16;
        double dropout = 0;
        std::string targets = "q_proj,k_proj,v_proj,o_proj";
        std::string adapter;

        static void each(auto& tune, auto& visit) {
            visit("tune.mode", tune.mode,
                  {"LoRA + embeddings + norms, LoRA alone, or every weight", physics});
            visit("tune.rank", tune.rank, {"LoRA rank r", physics, at_least(1)});
            visit("tune.alpha", tune.alpha, {"LoRA scale is alpha / r", physics, above(0)});
            visit("tune.dropout", tune.dropout, {"LoRA input dropout", physics, fraction()});
            visit("tune.targets", tune.targets, {"linear layers with LoRA", physics});
            visit("tune.adapter", tune.adapter, {"PEFT directory to start from", physics});
        }
    } tune;

    struct Sequence {
        Index length = 8192;
        Index chunks = 0;

        static void each(auto& sequence, auto& visit) {
            visit("sequence.length", sequence.length,
                  {"context N: tokens in a row", physics, at_least(1)});
            visit("sequence.chunks", sequence.chunks,
                  {"chunks a row is streamed in; 0: planned from the memory", kept, at_least(0)});
        }
    } sequence;

    struct Attention {
        Pattern pattern = Pattern::s2;
        Index group = 0;
        Boundary boundary = Boundary::truncate;

        static void each(auto& attention, auto& visit) {
            visit("attention.pattern", attention.pattern, {"who sees whom in training", physics});
            visit("attention.group", attention.group,
                  {"group size G in tokens; 0: sequence.length / 4", physics, at_least(0)});
            visit("attention.boundary", attention.boundary,
                  {"first shifted group; wrap leaks from the end", physics});
        }
    } attention;

    struct Rope {
        choice::Scaling scaling = choice::Scaling::none;
        double factor = 1;

        static void each(auto& rope, auto& visit) {
            visit("rope.scaling", rope.scaling, {"position interpolation", physics});
            visit("rope.factor", rope.factor,
                  {"target context / original context", physics, at_least(1)});
        }
    } rope;

    struct Train {
        Index steps = 1000;
        Index batch = 64;
        double learning_rate = 2e-5;
        choice::Schedule schedule = choice::Schedule::constant;
        Index warmup_steps = 20;
        double beta1 = 0.9;
        double beta2 = 0.95;
        double epsilon = 1e-8;
        double weight_decay = 0;
        double clip_norm = 1;
        Index checkpoint_every = 100;
        choice::Deterministic deterministic = choice::Deterministic::layout;
        choice::Activations activations = choice::Activations::automatic;
        double offload = 0;
        Index max_bad_steps = 10;
        std::string dump_gradients;

        static void each(auto& train, auto& visit) {
            visit("train.steps", train.steps, {"optimiser steps in all", kept, at_least(1)});
            visit("train.batch", train.batch, {"rows per step, world-wide", physics, at_least(1)});
            visit("train.learning_rate", train.learning_rate,
                  {"peak learning rate", physics, between(0, 1)});
            visit("train.schedule", train.schedule, {"after the warm-up", physics});
            visit("train.warmup_steps", train.warmup_steps,
                  {"steps of linear warm-up", physics, at_least(0)});
            visit("train.beta1", train.beta1, {"AdamW, first moment", physics, fraction()});
            visit("train.beta2", train.beta2, {"AdamW, second moment", physics, fraction()});
            visit("train.epsilon", train.epsilon, {"AdamW, denominator", physics, above(0)});
            visit("train.weight_decay", train.weight_decay,
                  {"AdamW, matrices only", physics, at_least(0)});
            visit("train.clip_norm", train.clip_norm,
                  {"largest global gradient norm; 0: no clipping", physics, at_least(0)});
            visit("train.checkpoint_every", train.checkpoint_every,
                  {"steps between checkpoints; 0: only at the end", kept, at_least(0)});
            visit("train.deterministic", train.deterministic,
                  {"same bits on the same layout, or on all whose shards are whole half-groups",
                   kept});
            visit("train.activations", train.activations, {"what backward finds", kept});
            visit("train.offload", train.offload,
                  {"GiB of the host a rank, for activations a GPU has no room for", kept,
                   at_least(0)});
            visit("train.max_bad_steps", train.max_bad_steps,
                  {"non-finite steps in a row that end the run", kept, at_least(1)});
            visit("train.dump_gradients", train.dump_gradients,
                  {"HDF5 file for the first step's gradients", fresh});
        }
    } train;

    struct Parallel {
        Index sequence = 0;
        choice::Device device = choice::Device::automatic;
        choice::Storage storage = choice::Storage::bfloat16;
        choice::Weights weights = choice::Weights::resident;
        Index threads = 0;

        static void each(auto& parallel, auto& visit) {
            visit("parallel.sequence", parallel.sequence,
                  {"ranks that share a row; 0: all that keep shards aligned", fresh, at_least(0)});
            visit("parallel.device", parallel.device, {"where the work is done", fresh});
            visit("parallel.storage", parallel.storage,
                  {"weights and activations on a GPU; float32 compares with the CPU", fresh});
            visit("parallel.weights", parallel.weights, {"where frozen weights lie", fresh});
            visit("parallel.threads", parallel.threads,
                  {"threads a rank; 0: cores / ranks on the node", fresh, at_least(0)});
        }
    } parallel;

    struct Data {
        std::string train;
        std::string validation;

        static void each(auto& data, auto& visit) {
            visit("data.train", data.train, {"tokens: tokens.h5, flat .bin or .npy", physics});
            visit("data.validation", data.validation, {"held-out tokens; empty: none", kept});
        }
    } data;

    struct Evaluate {
        Index every = 0;
        std::string contexts;
        Index stride = 256;
        choice::Protocol protocol = choice::Protocol::sliding;
        choice::Attention attention = choice::Attention::full;
        Index tokens = 32768;
        std::string dump_logits;

        static void each(auto& evaluate, auto& visit) {
            visit("evaluate.every", evaluate.every,
                  {"steps between evaluations; 0: only at the end", kept, at_least(0)});
            visit("evaluate.contexts", evaluate.contexts,
                  {"comma separated; empty: sequence.length", kept});
            visit(
                "evaluate.stride", evaluate.stride,
                {"tokens the window moves, at most its context; 0: half of it", kept, at_least(0)});
            visit("evaluate.protocol", evaluate.protocol,
                  {"sliding: each token once; longlora: all of each window", kept});
            visit("evaluate.attention", evaluate.attention,
                  {"who sees whom; s2: as attention.* say", kept});
            visit("evaluate.tokens", evaluate.tokens,
                  {"scored tokens per context; 0: all", kept, at_least(0)});
            visit("evaluate.dump_logits", evaluate.dump_logits,
                  {"HDF5 file for the first window's logits (evaluate)", fresh});
        }
    } evaluate;

    struct Comm {
        choice::Transport transport = choice::Transport::automatic;
        double timeout = 600;

        static void each(auto& comm, auto& visit) {
            visit("comm.transport", comm.transport, {"who carries messages", fresh});
            visit("comm.timeout", comm.timeout,
                  {"seconds until a hanging collective ends the run", fresh, above(0)});
        }
    } comm;

    struct Log {
        Index every = 1;

        static void each(auto& log, auto& visit) {
            visit("log.every", log.every, {"steps between lines", kept, at_least(1)});
        }
    } log;

    struct Prepare {
        std::string input;
        std::string output;
        std::string tokenizer;

        static void each(auto& prepare, auto& visit) {
            visit("prepare.input", prepare.input,
                  {"text file, folder of them, or .jsonl; comma separated", fresh});
            visit("prepare.output", prepare.output, {"tokens.h5 to write", fresh});
            visit("prepare.tokenizer", prepare.tokenizer,
                  {"tokenizer.model, tokenizer.json or `bytes`; empty: the one in model.path",
                   fresh});
        }
    } prepare;

    struct Export {
        std::string directory;
        choice::Dtype dtype = choice::Dtype::float32;
        double shard_size = 5;

        static void each(auto& exported, auto& visit) {
            visit("export.directory", exported.directory,
                  {"folder for adapter/ and model/; empty: run.directory/export", fresh});
            visit("export.dtype", exported.dtype, {"numbers of the merged model", fresh});
            visit("export.shard_size", exported.shard_size,
                  {"largest file of the merged model, in GB", fresh, above(0)});
        }
    } exported;  // `export` is a word of the language

    std::set<std::string> given;       // keys set by the command line or a file
    std::set<std::string> configured;  // of those, what only a file has set

    bool is_given(const std::string& key) const { return given.count(key) > 0; }
    bool names_run() const { return is_given("run.directory") || is_given("run.name"); }
    bool is_configured(const std::string& key) const { return configured.count(key) > 0; }

    // Values that follow from others, with `auto` resolved where no memory or mesh is asked.
    std::string run_directory() const;               // run.directory, or runs/<run.name>
    std::string export_directory() const;            // export.directory, or run.directory/export
    Index attention_group() const;                   // attention.group, or sequence.length / 4
    std::vector<std::string> targets() const;        // tune.targets as a list
    std::vector<Index> evaluation_contexts() const;  // evaluate.contexts, or {sequence.length}
};

// Calls visit(key, field, about) for every option, section by section.
template <class Self, class Visit>
void each_option(Self&& options, Visit&& visit) {
    Options::Run::each(options.run, visit);
    Options::Model::each(options.model, visit);
    Options::Tune::each(options.tune, visit);
    Options::Sequence::each(options.sequence, visit);
    Options::Attention::each(options.attention, visit);
    Options::Rope::each(options.rope, visit);
    Options::Train::each(options.train, visit);
    Options::Parallel::each(options.parallel, visit);
    Options::Data::each(options.data, visit);
    Options::Evaluate::each(options.evaluate, visit);
    Options::Comm::each(options.comm, visit);
    Options::Log::each(options.log, visit);
    Options::Prepare::each(options.prepare, visit);
    Options::Export::each(options.exported, visit);
}

std::vector<std::string> option_keys();
// Sets one option from text and notes it as given. Throws Error (bad input) for a text that does not
// fit and for an unknown key, naming the nearest known one; `where` ("run.ini: ") starts the message.
void set_option(Options& options, const std::string& key, std::string_view text,
                const std::string& where = "");
// "; did you mean --train.steps?", or nothing when no name is near. Knows the last part alone, too.
std::string suggestion(const std::string& unknown);

// As attributes of log.h5 and of checkpoints. Keys that are no option are left alone.
std::map<std::string, std::string> to_map(const Options& options);
Options from_map(const std::map<std::string, std::string>& saved);

// One line for each given physics option that differs: "tune.rank is '8' in the run, not '4'".
std::vector<std::string> physics_differences(const std::map<std::string, std::string>& saved,
                                             const Options& options);
// On resume: options that were not given, but for `fresh` ones, take the run's values.
void adopt(const std::map<std::string, std::string>& saved, Options& options);

}  // namespace longlora
