#include <type_traits>

#include "core/text.hpp"
#include "options/field_text.hpp"
#include "options/invocation.hpp"

namespace longlora {
namespace {

constexpr std::size_t help_column = 37;  // the longest "  --section.key default" that is usual
constexpr std::size_t last_column = 100;

// `left`, then `help` from help_column on, broken between words.
std::string entry(std::string left, const std::string& help) {
    std::string text;
    if (left.size() + 2 > help_column) {
        text = left + "\n";
        left.clear();
    }
    std::string line = left + std::string(help_column - left.size(), ' ');
    bool is_first = true;
    for (const auto& word : split(help, ' ')) {
        if (!is_first && line.size() + 1 + word.size() > last_column) {
            text += line + "\n";
            line = std::string(help_column, ' ');
            is_first = true;
        }
        line += (is_first ? "" : " ") + word;
        is_first = false;
    }
    return text + line + "\n";
}

template <class Field>
std::string choices_of(const Field& /*field*/) {
    if constexpr (std::is_enum_v<Field>) {
        return ": " + join(split(choice_texts<Field>.built, ' '), " | ");
    } else {
        return "";
    }
}

std::string options_by_section() {
    std::string text;
    std::string section;
    each_option(Options{}, [&](std::string_view name, const auto& field, const About& about) {
        const std::string key(name);
        if (const std::string mine = key.substr(0, key.find('.')); mine != section) {
            section = mine;
            text += "\n[" + section + "]\n";
        }
        text += entry("  --" + key + " " + field_text(field),
                      std::string(about.help) + choices_of(field));
    });
    return text;
}

}  // namespace

std::string help_text() {
    std::string text =
        "longlora_hpc [COMMAND] [--config FILE] [--section.key VALUE | --section.key=VALUE ...]\n\n"
        "Extends the context of LLaMA models by LongLoRA: shifted sparse attention and LoRA with\n"
        "trained embeddings and norms, sequences split among MPI ranks. Without any option it "
        "runs\n"
        "the demonstration that is compiled in.\n\n";
    text += entry("  train", "train, or go on with the run in run.directory (the default command)");
    text +=
        entry("  evaluate", "perplexity of run.directory's newest checkpoint, or of model.path");
    text +=
        entry("  export",
              "PEFT adapter and merged Hugging Face model of run.directory's newest checkpoint, "
              "or of model.path");
    text += entry("  prepare", "text files to tokens.h5");
    text += entry("  report", "what run.directory/log.h5 says");
    text += "\n";
    text += entry("  --config FILE",
                  "INI file: [section], key = value; `default`: the "
                  "demonstration's. The command line beats it");
    text +=
        entry("  --dry-run", "check everything, print what would be done, stop (train, export)");
    text += entry("  --version", "print the version");
    text += entry("  --help", "print this");
    text += "\nOptions by section, with their built-in values:\n";
    return text + options_by_section();
}

}  // namespace longlora
