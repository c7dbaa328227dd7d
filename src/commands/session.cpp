#include "commands/session.hpp"

#include <filesystem>

#include "comm/agree.hpp"
#include "comm/environment.hpp"
#include "commands/embedded.hpp"
#include "core/error.hpp"
#include "core/terminal.hpp"
#include "core/text.hpp"
#include "options/validate.hpp"

namespace longlora {
namespace {

BaseWeights open_base(const Options& options) {
    const Options::Model& model = options.model;
    if (model.path == "builtin") {
        return BaseWeights(ModelFiles::embedded(embedded_model_config(), embedded_model_weights()));
    }
    if (!model.path.empty()) {
        ModelFiles files = ModelFiles::open(model.path);
        for (const std::string& warning : files.check()) {
            warn(warning);
        }
        return BaseWeights(std::move(files));
    }
    LlamaConfig config;
    config.layers = model.layers;
    config.width = model.width;
    config.heads = model.heads;
    config.kv_heads = model.kv_head_count();
    config.head_dim = model.head_size();
    config.mlp_width = model.mlp_width;
    config.vocabulary = model.vocabulary;
    config.max_positions = options.sequence.length;
    config.is_tied = model.is_tied;
    return {config, static_cast<std::uint64_t>(options.run.seed)};
}

// The adapter's own configuration holds; an option that says otherwise is a contradiction.
void adopt_adapter(const AdapterFiles& adapter, Options& options) {
    const AdapterConfig& config = adapter.config();
    const auto settle = [&](const std::string& key, const std::string& value) {
        const auto saved = to_map(options).at(key);
        Options wanted;
        set_option(wanted, key, value);
        require(!options.is_given(key) || to_map(wanted).at(key) == saved,
                key + " is " + saved + ", but the adapter in " + adapter.name() + " has " + value +
                    "; leave the option out or start from another adapter");
        set_option(options, key, value);
    };
    settle("tune.rank", std::to_string(config.rank));
    settle("tune.alpha", format_number(config.alpha, 17));
    settle("tune.dropout", format_number(config.dropout, 17));
    settle("tune.targets", join(config.targets, ","));
}

TuneMode tune_mode(choice::Mode mode) {
    switch (mode) {
        case choice::Mode::lora_plus:
            return TuneMode::lora_plus;
        case choice::Mode::lora:
            return TuneMode::lora;
        case choice::Mode::full:
            return TuneMode::full;
    }
    return TuneMode::lora_plus;
}

// The scaling of the options where one is given, else config.json's; which it was stands in the
// options afterwards, so that log and checkpoint say what was used.
LlamaConfig with_rope(LlamaConfig config, Options& options) {
    if (options.is_given("rope.scaling") || options.is_given("rope.factor")) {
        const bool is_none = options.rope.scaling == choice::Scaling::none;
        config.rope = is_none ? RopeScaling{}
                              : RopeScaling{to_text(options.rope.scaling), options.rope.factor};
    }
    options.rope.scaling = from_text<choice::Scaling>(config.rope.type, "rope.scaling");
    options.rope.factor = config.rope.factor;
    return config;
}

// Options that were not given take the run's values.
SavedRun adopt_run(Options& options, const RunFolder& folder, const std::string& verb) {
    return agree([&] {
        auto saved = find_saved_run(folder, [](const std::string& text) {
            if (world_rank() == 0) {
                warn(text);
            }
        });
        require(saved.has_value(),
                folder.checkpoints() +
                    " has no intact checkpoint; set run.directory to a run, or model.path to " +
                    verb + " a model as it is");
        adopt(text_attributes(saved->attributes), options);
        const std::string& base = options.model.path;
        require(
            options.is_given("model.path") || base.empty() || base == "builtin" ||
                std::filesystem::exists(base),
            base + " is where the run in " + folder.path +
                " has its base: put it there again, or write where it is now as model.path into "
                "a file for --config");
        return *std::move(saved);
    });
}

bool is_model_as_it_is(const Options& options, const RunFolder& folder) {
    if (!options.is_configured("model.path")) {
        return options.is_given("model.path");
    }
    // The demonstration's base, which a start without options is given, is nobody's wish.
    return options.model.path != "builtin" && !holds_run(folder);
}

}  // namespace

void check_base(const SavedRun& saved, std::uint64_t fingerprint, const BaseWeights& base,
                const RunFolder& folder) {
    const auto place = saved.attributes.find("base_fingerprint");
    agree([&] {
        require(place != saved.attributes.end() &&
                    std::get<std::uint64_t>(place->second) == fingerprint,
                "the run in " + folder.path + " was started from another base model than " +
                    base.name() +
                    " (its fingerprint differs); give the same model.path or choose another "
                    "run.directory");
    });
}

ModelSetup set_up_model(Options& options) {
    return agree([&] {
        BaseWeights base = open_base(options);
        if (!options.tune.adapter.empty()) {
            const auto adapter =
                std::make_shared<const AdapterFiles>(AdapterFiles::open(options.tune.adapter));
            adapter->check(base.config());
            adopt_adapter(*adapter, options);
            base.set_adapter(adapter);
        }
        const Tune tune{tune_mode(options.tune.mode), options.tune.rank, options.tune.alpha,
                        options.tune.dropout, options.targets()};
        const LlamaConfig config = with_rope(base.config(), options);
        return ModelSetup{std::move(base), tune, config};
    });
}

OpenedRun open_run(Options& options, const RunFolder& folder, const std::string& verb) {
    std::optional<SavedRun> saved;
    if (!agree([&] { return is_model_as_it_is(options, folder); })) {
        saved = adopt_run(options, folder, verb);
    }
    agree([&] { validate(options, world_size()); });
    ModelSetup setup = set_up_model(options);
    if (saved) {
        check_base(*saved, agree([&] { return setup.base.fingerprint(); }), setup.base, folder);
    }
    return {std::move(saved), std::move(setup)};
}

}  // namespace longlora
