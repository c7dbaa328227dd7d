#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <optional>

#include "comm/agree.hpp"
#include "comm/environment.hpp"
#include "commands/command_list.hpp"
#include "commands/embedded.hpp"
#include "commands/export_files.hpp"
#include "commands/session.hpp"
#include "commands/threads.hpp"
#include "core/terminal.hpp"
#include "core/text.hpp"
#include "io/mapped_file.hpp"
#include "options/validate.hpp"

namespace longlora {
namespace {

constexpr double gigabyte = 1e9;

bool is_folder(const std::string& path) { return !path.empty() && path != "builtin"; }

std::string base_config_text(const std::string& path) {
    if (path == "builtin") {
        return std::string(embedded_model_config());
    }
    return path.empty() ? "" : std::string(MappedFile(path + "/config.json").text());
}

// The context that the model is good for: that of the run, or the base's times the interpolation; not
// below the base's own.
Index new_context(const Options& options, const OpenedRun& run) {
    const ModelSetup& setup = run.setup;
    const LlamaConfig& base = setup.base.config();
    if (run.saved || options.is_given("sequence.length")) {
        return std::max(base.max_positions, options.sequence.length);
    }
    const double stretch = std::max(1.0, setup.config.rope.factor / base.rope.factor);
    return std::llround(static_cast<double>(base.max_positions) * stretch);
}

std::map<std::string, std::string> facts(const Options& options, const ModelSetup& setup,
                                         const std::string& checkpoint) {
    return {{"written_by", std::string("longlora_hpc ") + LONGLORA_VERSION},
            {"base", setup.base.name()},
            {"checkpoint", checkpoint},
            {"adapter", options.tune.adapter},
            {"rope_scaling", setup.config.rope.type},
            {"rope_factor", format_number(setup.config.rope.factor, 17)}};
}

// A model as it is must not be taken for that of a run.
void check_place(const Options& options, const OpenedRun& run) {
    require(run.saved || options.names_run() || !options.exported.directory.empty(),
            "no place for the export: give export.directory, a folder to write adapter/ and model/ "
            "to");
}

// What is read must not be replaced.
void check_sources(const Options& options, const ExportFiles& files) {
    const auto check = [](const std::string& source, const std::string& target,
                          const std::string& option) {
        std::error_code is_absent;
        require(source.empty() || !std::filesystem::equivalent(source, target, is_absent),
                target + " is the export's place and " + option +
                    " too; choose another export.directory");
    };
    check(options.model.path, files.model_folder(), "model.path");
    check(options.tune.adapter, files.adapter_folder(), "tune.adapter");
}

std::string size_text(Index bytes) { return format_bytes(static_cast<double>(bytes)); }

std::string adapter_line(const ExportFiles& files, const TrainedWeights& weights) {
    if (!files.has_adapter()) {
        return "no adapter: all weights were trained, or none";
    }
    const auto modules = saved_modules(weights.adapter_tensors());
    return files.adapter_folder() + "  PEFT, LoRA of rank " +
           std::to_string(weights.adapter_config().rank) + " on " +
           join(weights.adapter_config().targets, ", ") +
           (modules.empty() ? "" : "; whole: " + join(modules, ", ")) + "; float32, " +
           size_text(files.adapter_bytes());
}

void announce(const ExportFiles& files, const TrainedWeights& weights, const LlamaConfig& config,
              const std::string& dtype) {
    say(adapter_line(files, weights));
    say(files.model_folder() + "  merged, " + dtype + ", " + std::to_string(files.model_files()) +
        (files.model_files() == 1 ? " file, " : " files, ") + size_text(files.model_bytes()) +
        "; context " + std::to_string(config.max_positions) + ", rope scaling " + config.rope.type +
        ", factor " + format_number(config.rope.factor, 17));
    if (files.has_adapter() && config.rope.type != "none") {
        say("an adapter has no place for the rope scaling: load its base with it (see " +
            files.adapter_folder() + "/README.md), here with --rope.scaling " + config.rope.type +
            " --rope.factor " + format_number(config.rope.factor, 17));
    }
}

void warn_of_stale_adapter(const ExportFiles& files) {
    if (!files.has_adapter() && std::filesystem::exists(files.adapter_folder())) {
        warn(files.adapter_folder() + " is not of this export, which has no adapter");
    }
}

// The run's newest intact checkpoint, if a run is exported; verified by rank 0, opened by all.
std::optional<CheckpointReader> open_checkpoint(const ModelSetup& setup, const RunFolder& folder,
                                                bool has_run) {
    if (!has_run) {
        return std::nullopt;
    }
    const auto world = Communicator<Cpu>::world();
    const auto tensors = checkpoint_tensors(trainable_parameters(setup.config, setup.tune));
    std::string path = agree([&] {
        return world.rank() == 0
                   ? newest_intact_checkpoint(folder.checkpoints(), tensors,
                                              [](const std::string& text) { warn(text); })
                   : std::string();
    });
    path = world.broadcast_text(path, 0);
    return agree([&] { return std::optional<CheckpointReader>(std::in_place, path, tensors); });
}

}  // namespace

int export_command(Options options, bool is_dry_run) {
    const auto world = Communicator<Cpu>::world();
    // Ranks wait for nothing but each other's files, and a large one may take its time.
    set_communication_timeout(std::numeric_limits<double>::infinity());
    const RunFolder folder{options.run_directory()};
    const OpenedRun run = open_run(options, folder, "export");
    agree([&] { check_place(options, run); });
    const ModelSetup& setup = run.setup;
    const auto checkpoint = open_checkpoint(setup, folder, run.saved.has_value());
    const TrainedWeights weights(setup.base, setup.tune, checkpoint ? &*checkpoint : nullptr);
    LlamaConfig config = setup.config;
    config.max_positions = new_context(options, run);
    const ExportFiles files = agree([&] {
        ExportFiles planned(
            {weights, config,
             is_folder(options.model.path) ? std::filesystem::absolute(options.model.path).string()
                                           : "",
             base_config_text(options.model.path), options.export_directory(),
             to_text(options.exported.dtype),
             static_cast<Index>(std::min(options.exported.shard_size * gigabyte, 9e18)),
             facts(options, setup, checkpoint ? checkpoint->path() : "")});
        check_sources(options, planned);
        planned.check();
        return planned;
    });
    if (!is_dry_run) {
        files.write(world, Stream<Cpu>(options.parallel.threads > 0
                                           ? static_cast<int>(options.parallel.threads)
                                           : threads_per_rank(world)));
    }
    if (world.rank() == 0) {
        announce(files, weights, config, to_text(options.exported.dtype));
        warn_of_stale_adapter(files);
        if (is_dry_run) {
            say("nothing written: a dry run; a rank would need " +
                size_text(4 * files.largest_tensor()) + " and LoRA factors");
        }
    }
    return static_cast<int>(ExitCode::done);
}

}  // namespace longlora
