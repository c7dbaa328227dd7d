#include <algorithm>

#include "core/error.hpp"
#include "data/token_file.hpp"
#include "io/durable.hpp"

namespace longlora {
namespace {

constexpr Index chunk_tokens = 65536;  // what a read of a few tokens has to fetch
constexpr Index chunk_documents = 4096;
constexpr Index largest_16_bit_vocabulary = 65536;

Hdf5Dataset create_column(Hdf5File& file, const std::string& name, Hdf5Type type, Index chunk) {
    return file.create_dataset(name,
                               {.type = type, .shape = {0}, .chunk = chunk, .is_extensible = true});
}

}  // namespace

struct TokenFileWriter::Columns {
    std::unique_ptr<UnfinishedFile> unfinished;  // outlives the file
    Hdf5File file;
    Hdf5Dataset tokens;
    std::vector<Hdf5Dataset> documents;  // /documents, and /prompt_ends where there are prompts
};

TokenFileWriter::TokenFileWriter(const std::string& path, const TokenFileInfo& info)
    : path_(path), info_(info) {
    make_folders(folder_of(path));
    auto unfinished = std::make_unique<UnfinishedFile>(path);
    Hdf5File file = Hdf5File::create(unfinished->path());
    file.write_attributes({{"tokenizer", info.tokenizer},
                           {"tokenizer_digest", info.tokenizer_digest},
                           {"vocabulary_size", info.vocabulary}});
    const bool is_narrow = info.vocabulary <= largest_16_bit_vocabulary;
    Hdf5Dataset tokens = create_column(
        file, "/tokens", is_narrow ? Hdf5Type::uint16 : Hdf5Type::uint32, chunk_tokens);
    std::vector<Hdf5Dataset> documents;
    documents.push_back(create_column(file, "/documents", Hdf5Type::uint64, chunk_documents));
    if (info.has_prompts) {
        documents.push_back(create_column(file, "/prompt_ends", Hdf5Type::uint64, chunk_documents));
    }
    columns_ = std::make_unique<Columns>(
        Columns{std::move(unfinished), std::move(file), std::move(tokens), std::move(documents)});
}

TokenFileWriter::~TokenFileWriter() = default;

void TokenFileWriter::append(std::span<const std::int32_t> document, Index prompt) {
    const auto is_known = [&](std::int32_t token) {
        return token >= 0 && token < info_.vocabulary;
    };
    ensure(columns_ != nullptr, path_ + " is closed");
    ensure(std::all_of(document.begin(), document.end(), is_known),
           "a token of document " + std::to_string(documents_) + " of " + path_ +
               " is outside the tokenizer's vocabulary");
    ensure(prompt >= 0 && prompt <= static_cast<Index>(document.size()) &&
               (prompt == 0 || info_.has_prompts),
           "document " + std::to_string(documents_) + " of " + path_ + " has no such prompt");
    starts_.push_back(static_cast<std::uint64_t>(tokens_));
    prompt_ends_.push_back(static_cast<std::uint64_t>(tokens_ + prompt));
    buffer_.insert(buffer_.end(), document.begin(), document.end());
    tokens_ += static_cast<Index>(document.size());
    ++documents_;
    if (static_cast<Index>(buffer_.size()) >= chunk_tokens ||
        static_cast<Index>(starts_.size()) >= chunk_documents) {
        write_out();
    }
}

void TokenFileWriter::write_out() {
    columns_->tokens.append(std::span<const std::uint32_t>(buffer_));
    columns_->documents[0].append(std::span<const std::uint64_t>(starts_));
    if (info_.has_prompts) {
        columns_->documents[1].append(std::span<const std::uint64_t>(prompt_ends_));
    }
    buffer_.clear();
    starts_.clear();
    prompt_ends_.clear();
}

void TokenFileWriter::close() {
    ensure(columns_ != nullptr, path_ + " is closed");
    write_out();
    const auto end = static_cast<std::uint64_t>(tokens_);
    columns_->documents[0].append(std::span<const std::uint64_t>(&end, 1));
    const auto unfinished = std::move(columns_->unfinished);
    Hdf5File file = std::move(columns_->file);
    columns_.reset();
    file.close();
    unfinished->publish();
}

}  // namespace longlora
