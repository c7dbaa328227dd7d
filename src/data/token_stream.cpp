#include "data/token_stream.hpp"

#include <map>
#include <optional>

namespace longlora {
namespace {

std::optional<DemonstrationDocuments::Set> builtin_set(const std::string& source) {
    using Set = DemonstrationDocuments::Set;
    const std::map<std::string, Set> sets = {{"builtin-base", Set::base},
                                             {"builtin", Set::training},
                                             {"builtin-validation", Set::validation}};
    const auto place = sets.find(source);
    return place == sets.end() ? std::nullopt : std::optional(place->second);
}

std::variant<TokenFile, DemonstrationDocuments> open_source(const std::string& source,
                                                            Index vocabulary) {
    if (const auto set = builtin_set(source)) {
        return DemonstrationDocuments(*set, vocabulary);
    }
    return TokenFile(source, vocabulary);
}

}  // namespace

TokenStream::TokenStream(const std::string& source, Index vocabulary)
    : name_(source), source_(open_source(source, vocabulary)) {}

Index TokenStream::size() const {
    return std::visit([](const auto& source) { return source.size(); }, source_);
}

bool TokenStream::has_prompts() const {
    const auto* file = std::get_if<TokenFile>(&source_);
    return file != nullptr && file->info().has_prompts;
}

void TokenStream::read(Range range, std::span<std::int32_t> tokens) const {
    std::visit([&](const auto& source) { source.read(range, tokens); }, source_);
}

void TokenStream::read_labels(Range range, std::span<std::int32_t> labels) const {
    if (const auto* file = std::get_if<TokenFile>(&source_)) {
        file->read_labels(range, labels);
    } else {
        read(range, labels);
    }
}

std::string TokenStream::tokenizer_digest() const {
    const auto* file = std::get_if<TokenFile>(&source_);
    return file != nullptr ? file->info().tokenizer_digest : std::string();
}

}  // namespace longlora
