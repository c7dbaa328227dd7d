#include "options/options.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "core/text.hpp"
#include "options/field_text.hpp"

namespace longlora {
namespace {

// `auto` values that follow from others are written out, and lists brought to one form, so that
// two ways to say the same are the same.
Options resolved(Options options) {
    options.attention.group = options.attention_group();
    options.model.kv_heads = options.model.kv_head_count();
    options.model.head_dim = options.model.head_size();
    auto targets = options.targets();
    std::sort(targets.begin(), targets.end());
    options.tune.targets = join(targets, ",");
    return options;
}

std::string last_part(const std::string& key) { return key.substr(key.find('.') + 1); }

}  // namespace

std::string Options::run_directory() const {
    return run.directory.empty() ? "runs/" + run.name : run.directory;
}

std::string Options::export_directory() const {
    return exported.directory.empty() ? run_directory() + "/export" : exported.directory;
}

Index Options::attention_group() const {
    return attention.group > 0 ? attention.group : sequence.length / 4;
}

std::vector<std::string> Options::targets() const { return split(tune.targets, ','); }

std::vector<Index> Options::evaluation_contexts() const {
    std::vector<Index> contexts;
    for (const auto& part : split(evaluate.contexts, ',')) {
        Index context = 0;
        read_field(part, context, "evaluate.contexts", "");
        contexts.push_back(context);
    }
    return contexts.empty() ? std::vector<Index>{sequence.length} : contexts;
}

std::vector<std::string> option_keys() {
    std::vector<std::string> keys;
    each_option(Options{},
                [&](std::string_view key, const auto&, const About&) { keys.emplace_back(key); });
    return keys;
}

std::string suggestion(const std::string& unknown) {
    const auto keys = option_keys();
    if (unknown.find('.') != std::string::npos) {
        const std::string near = nearest(unknown, keys);
        return near.empty() ? "" : "; did you mean --" + near + "?";
    }
    std::vector<std::string> names = {"config", "help", "version", "dry-run"};
    std::transform(keys.begin(), keys.end(), std::back_inserter(names), last_part);
    const std::string near = nearest(unknown, names);
    const auto key = std::find_if(keys.begin(), keys.end(), [&](const std::string& candidate) {
        return last_part(candidate) == near;
    });
    return near.empty() ? "" : "; did you mean --" + (key == keys.end() ? near : *key) + "?";
}

void set_option(Options& options, const std::string& key, std::string_view text,
                const std::string& where) {
    bool is_known = false;
    each_option(options, [&](std::string_view name, auto& field, const About&) {
        if (name == key) {
            read_field(text, field, key, where);
            is_known = true;
        }
    });
    require(is_known, where + "unknown option '" + key + "'" + suggestion(key));
    options.given.insert(key);
}

std::map<std::string, std::string> to_map(const Options& options) {
    std::map<std::string, std::string> texts;
    each_option(options, [&](std::string_view key, const auto& field, const About&) {
        texts[std::string(key)] = field_text(field);
    });
    return texts;
}

Options from_map(const std::map<std::string, std::string>& saved) {
    Options options;
    each_option(options, [&](std::string_view name, auto& field, const About&) {
        const std::string key(name);
        if (const auto value = saved.find(key); value != saved.end()) {
            read_field(value->second, field, key, "saved options: ");
        }
    });
    return options;
}

std::vector<std::string> physics_differences(const std::map<std::string, std::string>& saved,
                                             const Options& options) {
    Options merged = options;
    adopt(saved, merged);
    const auto now = to_map(resolved(merged));
    const auto before = to_map(resolved(from_map(saved)));
    std::vector<std::string> differences;
    each_option(options, [&](std::string_view name, const auto&, const About& about) {
        const std::string key(name);
        if (about.on_resume == OnResume::physics && options.is_given(key) &&
            now.at(key) != before.at(key)) {
            differences.push_back(key + " is '" + before.at(key) + "' in the run, not '" +
                                  now.at(key) + "'");
        }
    });
    return differences;
}

void adopt(const std::map<std::string, std::string>& saved, Options& options) {
    each_option(options, [&](std::string_view name, auto& field, const About& about) {
        const std::string key(name);
        const auto value = saved.find(key);
        if (value != saved.end() && about.on_resume != OnResume::fresh && !options.is_given(key)) {
            read_field(value->second, field, key, "saved options: ");
        }
    });
    // The scaling that the run has used holds, as one that is given does, against config.json's.
    if (saved.count("rope.scaling") > 0) {
        options.given.insert("rope.scaling");
    }
}

}  // namespace longlora
