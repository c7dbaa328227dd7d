#include "data/token_stream.hpp"

namespace longlora {
namespace {

constexpr const char* training_name = "builtin";
constexpr const char* validation_name = "builtin-validation";

std::variant<TokenFile, DemonstrationDocuments> open_source(const std::string& source,
                                                            Index vocabulary) {
    if (source == training_name || source == validation_name) {
        return DemonstrationDocuments(source == validation_name, vocabulary);
    }
    return TokenFile(source, vocabulary);
}

}  // namespace

TokenStream::TokenStream(const std::string& source, Index vocabulary)
    : name_(source), source_(open_source(source, vocabulary)) {}

Index TokenStream::size() const {
    return std::visit([](const auto& source) { return source.size(); }, source_);
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

Index TokenStream::count_labels(Range range) const {
    const auto* file = std::get_if<TokenFile>(&source_);
    return file != nullptr ? file->count_labels(range) : range.size();
}

std::string TokenStream::tokenizer_digest() const {
    const auto* file = std::get_if<TokenFile>(&source_);
    return file != nullptr ? file->info().tokenizer_digest : std::string();
}

}  // namespace longlora
