#pragma once

#include <span>
#include <string>
#include <variant>

#include "data/demonstration.hpp"
#include "data/token_file.hpp"

namespace longlora {

// Tokens to train or evaluate on: a file, or the built-in documents ("builtin" for training,
// "builtin-validation" for documents that training never sees).
class TokenStream {
public:
    TokenStream(const std::string& source, Index vocabulary);

    const std::string& name() const { return name_; }
    Index size() const;
    void read(Range range, std::span<std::int32_t> tokens) const;
    void read_labels(Range range, std::span<std::int32_t> labels) const;  // -100 inside prompts
    Index count_labels(Range range) const;                                // outside of them
    std::string tokenizer_digest() const;                                 // empty where unknown

private:
    std::string name_;
    std::variant<TokenFile, DemonstrationDocuments> source_;
};

}  // namespace longlora
