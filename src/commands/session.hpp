#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "comm/agree.hpp"
#include "io/adapter.hpp"
#include "model/base_weights.hpp"
#include "model/llama.hpp"
#include "model/trainable_start.hpp"
#include "options/options.hpp"
#include "train/run_folder.hpp"

namespace longlora {

// The base model, and what is trained of it, as the options say.
struct ModelSetup {
    BaseWeights base;
    Tune tune;
    LlamaConfig config;  // the base's, with the rope scaling of the options where it is given
};

// Reads model.path ("builtin": the demonstration's base; empty: random weights) and tune.adapter,
// whose rank, alpha, dropout and targets hold; an explicit option that differs is an Error.
// Collective: the same error on all ranks.
ModelSetup set_up_model(Options& options);

// What a command begins with that works on the newest checkpoint of run.directory, whose options name the
// base and the physics, or on a model as it is: where the command line names a model.path. In a file, which
// a run may have been started with, model.path is where the base of the run lies, if there is a run.
struct OpenedRun {
    std::optional<SavedRun> saved;  // the options that were not given have taken its values
    ModelSetup setup;               // its base is checked to be the run's
};
// Collective; `verb` says what was to be done.
OpenedRun open_run(Options& options, const RunFolder& folder, const std::string& verb);

// Collective: an Error when the run was started from another base.
void check_base(const SavedRun& saved, std::uint64_t fingerprint, const BaseWeights& base,
                const RunFolder& folder);

// Trainables, frozen weights and the model over them; they refer to each other, so this stays put.
template <class Device>
struct Session {
    Session(const ModelSetup& setup, std::uint64_t seed, int threads)
        : stream(threads),
          parameters(trainable_parameters(setup.config, setup.tune)),
          store(stream, setup.base, setup.tune, parameters),
          model(setup.config, setup.tune, parameters, store) {
        initialise_trainables(stream, parameters, setup.base, setup.base.adapter(), seed);
        store.refresh(stream);
        stream.synchronize();  // others have streams of their own
    }
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;

    Stream<Device> stream;
    Parameters<Device> parameters;
    WeightStore<Device> store;
    Llama<Device> model;
};

// Collective: a weight that cannot be read is told once, by all.
template <class Device>
std::unique_ptr<Session<Device>> open_session(const ModelSetup& setup, std::uint64_t seed,
                                              int threads) {
    return agree([&] { return std::make_unique<Session<Device>>(setup, seed, threads); });
}

}  // namespace longlora
