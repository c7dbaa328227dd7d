#include <algorithm>
#include <filesystem>
#include <optional>

#include "comm/agree.hpp"
#include "comm/environment.hpp"
#include "commands/command_list.hpp"
#include "commands/data_check.hpp"
#include "commands/device_choice.hpp"
#include "commands/dry_run.hpp"
#include "commands/plan_request.hpp"
#include "commands/session.hpp"
#include "commands/threads.hpp"
#include "core/terminal.hpp"
#include "core/text.hpp"
#include "options/validate.hpp"
#include "train/stop_signal.hpp"
#include "train/trainer.hpp"

namespace longlora {
namespace {

namespace fs = std::filesystem;

// The data of the run may have been given by another name, or have moved since.
void follow_data(std::map<std::string, std::string>& run, const Options& options) {
    const auto saved = run.find("data.train");
    if (saved == run.end() || !options.is_given("data.train")) {
        return;
    }
    const std::string before = saved->second;
    const std::string& now = options.data.train;
    std::error_code is_absent;
    const bool is_gone = fs::path(before).is_absolute() && !fs::exists(before) && fs::exists(now);
    if (!is_gone && !fs::equivalent(before, now, is_absent)) {
        return;
    }
    if (is_gone && world_rank() == 0) {
        warn("data.train was " + before + ", which is no longer there: " + now +
             " is taken for the same");
    }
    saved->second = now;
}

// What the checkpoint in the run's folder says about how to go on.
std::optional<SavedRun> settle_resume(Options& options, const RunFolder& folder) {
    return agree([&]() -> std::optional<SavedRun> {
        const bool is_root = world_rank() == 0;
        auto saved = find_saved_run(folder, [&](const std::string& text) {
            if (is_root) {
                warn(text);
            }
        });
        if (options.run.resume == choice::Resume::never) {
            require(!holds_run(folder), folder.path +
                                            " holds a run already and run.resume is never; choose "
                                            "another run.directory or set run.resume to auto");
        }
        require(
            saved || options.run.resume != choice::Resume::require,
            "run.resume is require, but " + folder.checkpoints() +
                " has no intact checkpoint; set run.directory to the run, or run.resume to auto");
        // To start anew over them would cut the log back to nothing.
        require(saved || checkpoint_steps(folder.checkpoints()).empty(),
                folder.checkpoints() +
                    " has checkpoints, but none is intact; move them away to start anew, or choose "
                    "another run.directory");
        if (saved) {
            auto texts = text_attributes(saved->attributes);
            follow_data(texts, options);
            const auto differences = physics_differences(texts, options);
            require(differences.empty(),
                    "the run in " + folder.path +
                        " was started with other settings: " + join(differences, "; ") +
                        "; leave these options out to resume it, or choose another run.directory");
            adopt(texts, options);
        }
        return saved;
    });
}

// A base that was forgotten, as by a job that is not told its MODEL; whoever wants random weights gives sizes.
bool lacks_base(const Options& options) {
    const auto is_model_option = [](const std::string& key) { return key.starts_with("model."); };
    return options.model.path.empty() && options.tune.mode != choice::Mode::full &&
           std::none_of(options.given.begin(), options.given.end(), is_model_option);
}

// What only this start shows to be in vain, or forgotten.
void warn_of_start(const Options& options, bool resumes, DeviceKind device) {
    if (lacks_base(options)) {
        warn("no model.path: tune.mode " + to_text(options.tune.mode) +
             " trains little of a model of random weights; set model.path to the base");
    }
    if (resumes && !options.train.dump_gradients.empty()) {
        warn("train.dump_gradients has no effect on a run that goes on: it is of the first step");
    }
    if (device == DeviceKind::cpu && options.train.offload > 0) {
        warn("train.offload has no effect on a CPU, whose memory is the host's");
    }
}

// What a run was started with, besides its options.
struct RunFacts {
    const RunPlan& plan;
    std::uint64_t fingerprint;
    std::string device;
};

Attributes run_attributes(const Options& options, const RunFacts& facts,
                          const Communicator<Cpu>& world) {
    const RunPlan& plan = facts.plan;
    Attributes attributes;
    for (const auto& [key, value] : to_map(options)) {
        attributes[key] = value;
    }
    // Whoever works on the run later may do so from another folder.
    for (const std::string key : {"model.path", "data.train", "data.validation"}) {
        auto& path = std::get<std::string>(attributes.at(key));
        std::error_code ignored;
        if (fs::exists(path, ignored)) {
            path = fs::absolute(path).lexically_normal().string();
        }
    }
    attributes["format_version"] = std::int64_t{1};
    attributes["version"] = std::string(LONGLORA_VERSION);
    attributes["device"] = facts.device;
    attributes["mesh"] = std::to_string(world.size() / plan.layout.ranks) + " data x " +
                         std::to_string(plan.layout.ranks) + " sequence";
    attributes["placement"] = placement(world);
    attributes["planned_chunks"] = std::int64_t{plan.layout.chunks};
    attributes["planned_activations"] = static_cast<std::int64_t>(plan.kept.policy);
    attributes["base_fingerprint"] = facts.fingerprint;
    return attributes;
}

void announce(const RunPlan& plan, const Options& options, const ModelSetup& setup, int world) {
    say("model " + setup.base.name() + ", " +
        format_count(
            static_cast<double>(parameter_count(trainable_parameters(setup.config, setup.tune)))) +
        " trainable; " + std::to_string(options.train.batch) + " x " +
        std::to_string(plan.layout.length) + " tokens a step on " +
        std::to_string(world / plan.layout.ranks) + " data x " + std::to_string(plan.layout.ranks) +
        " sequence ranks, chunks " + std::to_string(plan.layout.chunks) + ", activations " +
        kept_text(plan) + ", " + format_bytes(plan.memory.total()) + " a rank");
}

// A run that has ended says so. It goes on when train.steps has grown, when it was killed while it
// ended, and when its last checkpoint is damaged.
bool is_finished(const Options& options, const std::optional<SavedRun>& saved,
                 const RunFolder& folder) {
    if (!saved || saved->step < options.train.steps) {
        return false;
    }
    const auto world = Communicator<Cpu>::world();
    const bool has_told = world.rank() == 0 && has_ended(folder, saved->step);
    if (world.max(static_cast<std::int64_t>(has_told)) == 0 ||
        !is_intact_checkpoint(checkpoint_path(folder.checkpoints(), saved->step),
                              [](const std::string& text) { warn(text); })) {
        return false;
    }
    if (world.rank() == 0) {
        say("the run in " + folder.path + " is finished: " + std::to_string(saved->step) + " of " +
            std::to_string(options.train.steps) + " steps; raise train.steps to go on");
    }
    return true;
}

template <class Device>
ExitCode run_training(TrainerSetup<Device> setup, const ModelSetup& model, bool resumes) {
    Mesh<Device> mesh(static_cast<int>(setup.plan.layout.ranks));
    const auto session = open_session<Device>(
        model, static_cast<std::uint64_t>(setup.options.run.seed), setup.threads);
    const std::string folder = setup.folder.path;
    Trainer<Device> trainer(std::move(setup), mesh, session->parameters, session->store);
    if (resumes) {
        const Index step = trainer.resume();
        if (mesh.is_root()) {
            say("resumed at step " + std::to_string(step) + " from " + folder);
        }
    }
    return trainer.run();
}

}  // namespace

int train_command(Options options, bool is_dry_run) {
    watch_stop_signals();  // a stop asked for while the model is read is obeyed after the first step
    const auto world = Communicator<Cpu>::world();
    const bool is_root = world.rank() == 0;
    set_communication_timeout(options.comm.timeout);
    const RunFolder folder{options.run_directory()};
    FolderLock lock =
        agree([&] { return is_root && !is_dry_run ? lock_run(folder) : FolderLock(); });
    const auto saved = settle_resume(options, folder);
    const auto warnings = agree([&] {
        require(
            !options.data.train.empty(),
            "train needs tokens: set data.train to a tokens.h5 (made by `longlora_hpc prepare`), a "
            "flat .bin or a .npy file, or start without any option for the demonstration");
        return validate(options, world.size());
    });
    if (is_root) {
        for (const auto& warning : warnings) {
            warn(warning);
        }
    }
    const ModelSetup setup = set_up_model(options);
    const DeviceChoice device = choose_device(options, world);
    if (is_root) {
        warn_of_start(options, saved.has_value(), device.kind);
    }
    const RunPlan plan = plan_run(plan_request(options, setup, saved, device.kind), world);
    if (is_dry_run) {
        agree([&] {
            check_data(options, setup.config.vocabulary);
            if (is_root) {
                check_place(folder);
            }
        });
        print_dry_run({options, setup, plan, device.kind, folder.path}, world);
        return static_cast<int>(ExitCode::done);
    }
    const std::uint64_t fingerprint = agree([&] { return setup.base.fingerprint(); });
    if (saved) {
        check_base(*saved, fingerprint, setup.base, folder);
    }
    if (is_finished(options, saved, folder)) {
        return static_cast<int>(ExitCode::done);
    }
    agree([&] { check_data(options, setup.config.vocabulary); });
    const int threads = options.parallel.threads > 0 ? static_cast<int>(options.parallel.threads)
                                                     : threads_per_rank(world);
    if (is_root) {
        announce(plan, options, setup, world.size());
    }
    const Attributes attributes = run_attributes(options, {plan, fingerprint, device.name}, world);
    return static_cast<int>(on_device(device.kind, [&](auto kind) {
        return run_training<decltype(kind)>({options, setup.tune, setup.base.config(), setup.config,
                                             plan, folder, attributes, threads, std::move(lock)},
                                            setup, saved.has_value());
    }));
}

}  // namespace longlora
