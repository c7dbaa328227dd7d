#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/view.hpp"
#include "io/hdf5.hpp"
#include "io/mapped_file.hpp"

namespace longlora {

// What the tokenizer that made a token file is called; a flat file knows nothing of it.
struct TokenFileInfo {
    std::string tokenizer;
    std::string tokenizer_digest;
    Index vocabulary = 0;      // entries
    bool has_prompts = false;  // instruction data: a prompt's tokens are no labels
};

constexpr std::int32_t ignored_label = -100;

// A stream of tokens to read from: tokens.h5, a flat .bin (uint16 up to 65,536 vocabulary entries,
// else uint32), or .npy (int32, 1-D). Each rank opens its own, read-only, and reads what it needs.
class TokenFile {
public:
    TokenFile(const std::string& path, Index vocabulary);  // entries of the model's embedding
    ~TokenFile();
    TokenFile(TokenFile&& other) noexcept;
    TokenFile& operator=(TokenFile&& other) noexcept;

    const std::string& path() const { return path_; }
    const TokenFileInfo& info() const { return info_; }
    Index size() const { return size_; }

    // Both check each token against the vocabulary.
    void read(Range range, std::span<std::int32_t> tokens) const;
    void read_labels(Range range, std::span<std::int32_t> labels) const;  // prompts ignored
    Index count_labels(Range range) const;  // those that are not ignored

private:
    struct Source;  // HDF5 or a mapped file
    void open_hdf5();
    void open_npy(MappedFile file);
    void open_flat(MappedFile file);
    void check(Index begin, std::span<const std::int32_t> tokens) const;
    // Calls visit(part) for what of each prompt lies in `range`, counted from its begin.
    template <class Visit>
    void each_prompt(Range range, const Visit& visit) const;

    std::string path_;
    Index vocabulary_;
    TokenFileInfo info_;
    Index size_ = 0;
    std::unique_ptr<Source> source_;
    std::vector<Range> prompts_;
};

// Writes tokens.h5 document by document; only a buffer of tokens is held. The file gets its name
// when close() has ended; without close() nothing remains.
class TokenFileWriter {
public:
    TokenFileWriter(const std::string& path, const TokenFileInfo& info);
    ~TokenFileWriter();
    TokenFileWriter(const TokenFileWriter&) = delete;
    TokenFileWriter& operator=(const TokenFileWriter&) = delete;

    // The first `prompt` tokens of the document are its prompt.
    void append(std::span<const std::int32_t> document, Index prompt = 0);
    void close();

    Index tokens() const { return tokens_; }
    Index documents() const { return documents_; }

private:
    struct Columns;
    void write_out();

    std::string path_;
    TokenFileInfo info_;
    Index tokens_ = 0;
    Index documents_ = 0;
    std::unique_ptr<Columns> columns_;
    std::vector<std::uint32_t> buffer_;
    std::vector<std::uint64_t> starts_;
    std::vector<std::uint64_t> prompt_ends_;
};

}  // namespace longlora
