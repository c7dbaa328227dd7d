#include <filesystem>

#include "comm/agree.hpp"
#include "comm/environment.hpp"
#include "commands/command_list.hpp"
#include "core/terminal.hpp"
#include "core/text.hpp"
#include "data/text_files.hpp"
#include "data/token_file.hpp"
#include "data/tokenizer.hpp"
#include "io/digest.hpp"
#include "options/validate.hpp"

namespace longlora {
namespace {

Tokenizer open_tokenizer(const Options& options) {
    if (options.prepare.tokenizer == "bytes") {
        return Tokenizer::bytes();
    }
    return Tokenizer::open(options.prepare.tokenizer.empty()
                               ? tokenizer_file(options.model.path)
                               : std::filesystem::path(options.prepare.tokenizer));
}

// BOS prompt text EOS, as far as the tokenizer has them.
struct Encoded {
    std::vector<std::int32_t> tokens;
    Index prompt;  // tokens that are no labels
};

Encoded encode(const Tokenizer& tokenizer, const Document& document) {
    Encoded result{{}, 0};
    if (tokenizer.bos() >= 0) {
        result.tokens.push_back(tokenizer.bos());
    }
    if (!document.prompt.empty()) {
        const auto prompt = tokenizer.encode(document.prompt);
        result.tokens.insert(result.tokens.end(), prompt.begin(), prompt.end());
        result.prompt = static_cast<Index>(result.tokens.size());
    }
    const auto text = tokenizer.encode(document.text);
    result.tokens.insert(result.tokens.end(), text.begin(), text.end());
    if (tokenizer.eos() >= 0) {
        result.tokens.push_back(tokenizer.eos());
    }
    return result;
}

bool has_prompts(std::span<const std::filesystem::path> paths) {
    bool found = false;
    for_each_document(paths,
                      [&](const Document& document) { found = found || !document.prompt.empty(); });
    return found;
}

void prepare(const Options& options) {
    const Tokenizer tokenizer = open_tokenizer(options);
    std::vector<std::filesystem::path> paths;
    for (const std::string& path : split(options.prepare.input, ',')) {
        paths.emplace_back(path);
    }
    TokenFileWriter writer(options.prepare.output,
                           {tokenizer.name(), format_digest(tokenizer.digest()),
                            tokenizer.vocabulary_size(), has_prompts(paths)});
    for_each_document(paths, [&](const Document& document) {
        const Encoded encoded = encode(tokenizer, document);
        writer.append(encoded.tokens, encoded.prompt);
    });
    writer.close();
    say(options.prepare.output + ": " + std::to_string(writer.documents()) + " documents, " +
        std::to_string(writer.tokens()) + " tokens (" + tokenizer.name() + ", vocabulary " +
        std::to_string(tokenizer.vocabulary_size()) + ")");
}

}  // namespace

// One rank works: the result does not depend on how many there are.
int prepare_command(const Options& options) {
    agree([&] {
        validate_prepare(options);
        if (world_rank() == 0) {
            prepare(options);
        }
    });
    return static_cast<int>(ExitCode::done);
}

}  // namespace longlora
