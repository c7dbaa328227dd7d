#include "commands/data_check.hpp"

#include <filesystem>

#include "comm/environment.hpp"
#include "core/error.hpp"
#include "core/terminal.hpp"
#include "data/sampler.hpp"
#include "data/tokenizer.hpp"
#include "io/digest.hpp"
#include "io/mapped_file.hpp"
#include "train/perplexity_task.hpp"

namespace longlora {

void check_data(const Options& options, Index vocabulary) {
    const TokenStream data(options.data.train, vocabulary);
    check_tokenizer(data, options.model.path);
    const Index N = options.sequence.length;
    const Index rows = stream_rows(data.size(), N);
    require(rows > 0, options.data.train + " holds " + std::to_string(data.size()) +
                          " tokens, fewer than one row of sequence.length + 1 = " +
                          std::to_string(N + 1) + "; use more text or a shorter sequence.length");
    Index row = 0;
    while (row < rows && data.count_labels(row_labels(row, N)) == 0) {
        ++row;
    }
    require(row < rows, options.data.train +
                            " has nothing to learn: in each row of sequence.length + 1 tokens all "
                            "labels belong to prompts; give documents with longer completions");
    if (!options.data.validation.empty()) {
        const TokenStream validation(options.data.validation, vocabulary);
        scored_labels(perplexity_task(options), validation);
        const std::string digest = validation.tokenizer_digest();
        require(
            digest.empty() || data.tokenizer_digest().empty() || digest == data.tokenizer_digest(),
            options.data.train + " and " + options.data.validation +
                " were made with different tokenizers; prepare both with that of the model");
    }
}

void check_tokenizer(const TokenStream& data, const std::string& model_path) {
    const std::filesystem::path path = tokenizer_file(model_path);
    std::error_code none;
    if (world_rank() != 0 || model_path.empty() || data.tokenizer_digest().empty() ||
        !std::filesystem::is_regular_file(path, none)) {
        return;
    }
    if (format_digest(digest_of(MappedFile(path).bytes())) != data.tokenizer_digest()) {
        warn(data.name() + " was prepared with another tokenizer than " + path.string() +
             ", so its ids may mean other words to the model; prepare it again with "
             "prepare.tokenizer " +
             path.string());
    }
}

}  // namespace longlora
