#include "options/validate.hpp"

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "core/error.hpp"
#include "core/text.hpp"
#include "options/field_text.hpp"

namespace longlora {
namespace {

std::string allowed(const Limits& limits) {
    std::vector<std::string> parts;
    if (std::isfinite(limits.least)) {
        parts.push_back((limits.with_least ? "at least " : "above ") + field_text(limits.least));
    }
    if (std::isfinite(limits.most)) {
        parts.push_back((limits.with_most ? "at most " : "below ") + field_text(limits.most));
    }
    return join(parts, " and ");
}

void check_limits(const Options& options) {
    each_option(options, [](std::string_view key, const auto& field, const About& about) {
        if constexpr (std::is_arithmetic_v<std::remove_cvref_t<decltype(field)>>) {
            const auto value = static_cast<double>(field);
            const Limits& limits = about.limits;
            const bool fits = (limits.with_least ? value >= limits.least : value > limits.least) &&
                              (limits.with_most ? value <= limits.most : value < limits.most);
            require(fits, std::string(key) + " must be " + allowed(limits) + ", not " +
                              field_text(field));
        }
    });
}

void check_model(const Options::Model& model) {
    if (!model.path.empty()) {
        return;  // the sizes come from its config.json
    }
    require(model.heads % model.kv_head_count() == 0,
            "model.heads " + field_text(model.heads) + " must be a multiple of model.kv_heads " +
                field_text(model.kv_heads) + ": each key/value head serves as many query heads");
    require(model.head_dim > 0 || model.width % model.heads == 0,
            "model.width " + field_text(model.width) + " must be a multiple of model.heads " +
                field_text(model.heads) + ", or model.head_dim be given");
    require(model.head_size() % 2 == 0,
            "the head size " + field_text(model.head_size()) +
                " (model.head_dim, or model.width / model.heads) must be even, because RoPE turns "
                "pairs");
}

void check_targets(const Options& options) {
    const std::vector<std::string> known = {"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                            "gate_proj", "up_proj", "down_proj"};
    std::vector<std::string> seen;
    for (const auto& target : options.targets()) {
        require(std::find(known.begin(), known.end(), target) != known.end(),
                "tune.targets has no '" + target + "'; choose from " + join(known, ", "));
        require(std::find(seen.begin(), seen.end(), target) == seen.end(),
                "tune.targets names " + target + " twice; once is enough");
        seen.push_back(target);
    }
    require(!seen.empty() || options.tune.mode == choice::Mode::full,
            "tune.targets is empty; name the layers that get LoRA, such as q_proj,v_proj");
}

void check_attention(const Options& options) {
    const auto& attention = options.attention;
    const Index N = options.sequence.length;
    if (attention.pattern == Pattern::full) {
        require(attention.boundary == Boundary::truncate,
                "attention.boundary wrap has no meaning with attention.pattern full, which has no "
                "shifted groups; choose truncate, or another pattern");
        return;
    }
    require(attention.group > 0 || N % 8 == 0,
            "sequence.length " + field_text(N) +
                " must be a multiple of 8 where attention.group is not given, because a group is a "
                "quarter of it and splits into halves");
}

std::string divisors(int ranks) {
    std::vector<std::string> parts;
    for (int candidate = 1; candidate <= ranks; ++candidate) {
        if (ranks % candidate == 0) {
            parts.push_back(std::to_string(candidate));
        }
    }
    return join(parts, ", ");
}

void check_ranks(const Options& options, int ranks) {
    const Index P = options.parallel.sequence;
    require(P == 0 || ranks % P == 0,
            "parallel.sequence " + field_text(P) + " does not divide the " + std::to_string(ranks) +
                (ranks == 1 ? " rank" : " ranks") + " started; choose one of " + divisors(ranks) +
                ", or 0 to have it chosen");
}

void check_contexts(const Options& options) {
    for (const Index context : options.evaluation_contexts()) {
        require(context > 0,
                "evaluate.contexts must be positive lengths in tokens, not " + field_text(context));
    }
}

// What is given but cannot matter.
class Warnings {
public:
    explicit Warnings(const Options& options) : options_(options) {}

    void without_effect(const std::vector<std::string>& keys, bool applies,
                        const std::string& why) {
        for (const auto& key : keys) {
            if (applies && options_.is_given(key)) {
                lines_.push_back(std::string(key).append(" has no effect ").append(why));
            }
        }
    }
    void when(bool applies, const std::string& line) {
        if (applies) {
            lines_.push_back(line);
        }
    }
    std::vector<std::string> lines() const { return lines_; }

private:
    const Options& options_;
    std::vector<std::string> lines_;
};

std::vector<std::string> warnings_of(const Options& options, int ranks) {
    Warnings warnings(options);
    const auto& train = options.train;
    const Index P = options.parallel.sequence;
    const Index replicas = ranks / std::max<Index>(P, 1);
    const auto contexts = options.evaluation_contexts();
    const Index shortest = *std::min_element(contexts.begin(), contexts.end());
    warnings.when(train.warmup_steps > train.steps,
                  "train.warmup_steps " + field_text(train.warmup_steps) +
                      " is longer than the run of " + field_text(train.steps) +
                      " steps: the peak learning rate is never reached");
    warnings.when(P > 0 && train.batch < replicas,
                  "train.batch " + field_text(train.batch) + " leaves some of the " +
                      field_text(replicas) + " replicas without a row");
    warnings.when(options.evaluate.stride > shortest,
                  "evaluate.stride " + field_text(options.evaluate.stride) +
                      " is cut to the context where that is shorter");
    warnings.without_effect(
        {"tune.rank", "tune.alpha", "tune.dropout", "tune.targets", "tune.adapter"},
        options.tune.mode == choice::Mode::full, "with tune.mode full");
    warnings.without_effect({"attention.group"}, options.attention.pattern == Pattern::full,
                            "with attention.pattern full");
    warnings.when(
        options.attention.boundary == Boundary::wrap && options.attention.pattern == Pattern::local,
        "attention.boundary wrap has no effect with attention.pattern local, which shifts "
        "no head");
    warnings.without_effect({"rope.factor"}, options.rope.scaling == choice::Scaling::none,
                            "with rope.scaling none");
    warnings.without_effect({"evaluate.every", "evaluate.contexts", "evaluate.tokens"},
                            options.data.validation.empty(), "without data.validation");
    warnings.without_effect({"model.width", "model.layers", "model.heads", "model.kv_heads",
                             "model.head_dim", "model.mlp_width", "model.vocabulary"},
                            !options.model.path.empty(),
                            "with model.path, whose config.json has it");
    return warnings.lines();
}

}  // namespace

std::vector<std::string> validate(const Options& options, int ranks) {
    check_limits(options);
    check_model(options.model);
    check_targets(options);
    check_attention(options);
    check_ranks(options, ranks);
    check_layout({.length = options.sequence.length,
                  .group = options.attention_group(),
                  .ranks = std::max<Index>(options.parallel.sequence, 1),
                  .chunks = std::max<Index>(options.sequence.chunks, 1),
                  .pattern = options.attention.pattern,
                  .boundary = options.attention.boundary});
    check_contexts(options);
    return warnings_of(options, ranks);
}

void validate_prepare(const Options& options) {
    const auto& prepare = options.prepare;
    require(!split(prepare.input, ',').empty(),
            "prepare.input is empty; give text files, folders of them or .jsonl files, comma "
            "separated");
    require(!prepare.output.empty(), "prepare.output is empty; give the tokens.h5 to write");
    require(
        !prepare.tokenizer.empty() || !options.model.path.empty(),
        "no tokenizer: give prepare.tokenizer (a tokenizer.model, or bytes), or model.path with a "
        "tokenizer.model in it");
}

}  // namespace longlora
