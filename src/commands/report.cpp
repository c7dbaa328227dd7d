#include <algorithm>
#include <cmath>

#include "comm/agree.hpp"
#include "comm/environment.hpp"
#include "commands/command_list.hpp"
#include "core/terminal.hpp"
#include "core/text.hpp"
#include "io/run_log.hpp"
#include "train/run_folder.hpp"

namespace longlora {
namespace {

constexpr std::size_t shown_rows = 10;

std::string text_of(const Attributes& attributes, const std::string& name) {
    const auto place = attributes.find(name);
    const auto* text =
        place == attributes.end() ? nullptr : std::get_if<std::string>(&place->second);
    return text == nullptr ? "-" : *text;
}

// About ten steps, evenly spread, the last among them.
std::string steps_table(const LogContents& log) {
    const std::vector<std::string> names = {"step",          "loss",    "learning_rate",
                                            "gradient_norm", "seconds", "tokens_per_second",
                                            "halo_bytes"};
    Table table(names);
    const std::size_t steps = log.column("step").size();
    const std::size_t stride = std::max<std::size_t>(1, (steps + shown_rows - 1) / shown_rows);
    for (std::size_t i = (steps - 1) % stride; i < steps; i += stride) {
        std::vector<std::string> cells;
        for (const auto& name : names) {
            const auto column = log.column(name);
            cells.push_back(i < column.size() ? format_number(column[i], 6) : "-");
        }
        table.add(cells);
    }
    return table.text();
}

std::string phases_text(const LogContents& log) {
    std::string text;
    for (const LogColumn& column : log.steps) {
        const std::string& name = column.quantity.name;
        const std::string end = "_mean";
        if (name.rfind("seconds_", 0) == 0 && name.ends_with(end)) {
            double sum = 0;
            for (const double value : column.values) {
                sum += std::isfinite(value) ? value : 0;
            }
            text += (text.empty() ? "" : ", ") + name.substr(8, name.size() - 8 - end.size()) +
                    " " + format_seconds(sum);
        }
    }
    return text;
}

std::string evaluations_table(const LogContents& log) {
    Table table({"step", "model", "protocol", "context", "scored tokens", "perplexity"});
    for (const EvaluationRow& row : log.evaluations) {
        table.add({std::to_string(row.step), row.model, row.protocol, std::to_string(row.context),
                   std::to_string(row.scored_tokens), format_number(row.perplexity, 6)});
    }
    return table.text();
}

void report(const RunFolder& folder) {
    const LogContents log = read_log(folder.log());
    say("run         " + folder.path + " (version " + text_of(log.attributes, "version") + ", " +
        text_of(log.attributes, "mesh") + ", " + text_of(log.attributes, "device") + ")");
    say("model       " + text_of(log.attributes, "model.path") + ", tune.mode " +
        text_of(log.attributes, "tune.mode") + ", sequence.length " +
        text_of(log.attributes, "sequence.length"));
    if (!log.column("step").empty()) {
        say("\n" + steps_table(log));
        say("\nseconds by phase, mean over ranks, all steps: " + phases_text(log));
    }
    if (!log.evaluations.empty()) {
        say("\n" + evaluations_table(log));
    }
    if (!log.events.empty()) {
        const EventRow& last = log.events.back();
        say("\nlast event: step " + std::to_string(last.step) + ", " + last.kind + ": " +
            last.message);
    }
}

}  // namespace

int report_command(const Options& options) {
    agree([&] {
        if (world_rank() == 0) {
            report({options.run_directory()});
        }
    });
    return static_cast<int>(ExitCode::done);
}

}  // namespace longlora
