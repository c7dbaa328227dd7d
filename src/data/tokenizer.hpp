#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/view.hpp"

namespace longlora {

// Text <-> token ids. Neither way adds or needs BOS and EOS: who writes documents adds them.
class Tokenizer {
public:
    // No file: id = byte, besides BOS = 256 and EOS = 257, so a vocabulary of 258. Name "bytes".
    static Tokenizer bytes();
    // A SentencePiece model (BPE or unigram), tokenizer.model; its name is the file name. A damaged
    // file is an Error.
    static Tokenizer sentencepiece(const std::filesystem::path& path);
    // The same from a file's content (compiled in); `name` is the tokenizer's name.
    static Tokenizer sentencepiece(std::string_view model, const std::string& name);
    // A tokenizer.json of Hugging Face's (data/tokenizer_json.hpp), with BOS and EOS as the
    // tokenizer_config.json beside it names them.
    static Tokenizer json(const std::filesystem::path& path);
    // One of the two, by the name's end.
    static Tokenizer open(const std::filesystem::path& path);

    ~Tokenizer();
    Tokenizer(Tokenizer&& other) noexcept;
    Tokenizer& operator=(Tokenizer&& other) noexcept;

    // The whole text as one: `text` may be a novel (3 MB take seconds) and newlines count.
    std::vector<std::int32_t> encode(std::string_view text) const;
    // Control tokens (BOS, EOS) give no text. An id outside the vocabulary is an Error.
    std::string decode(std::span<const std::int32_t> ids) const;

    Index vocabulary_size() const;
    std::int32_t bos() const;  // -1 = has none
    std::int32_t eos() const;  // -1 = has none
    const std::string& name() const;
    std::uint64_t digest() const;  // XXH3 of the file's bytes; a constant for bytes()

private:
    struct Model;
    explicit Tokenizer(std::unique_ptr<Model> model);
    std::unique_ptr<Model> model_;
};

// The tokenizer of a Hugging Face model: tokenizer.model, or where there is none tokenizer.json; the former's
// path where there is neither.
std::filesystem::path tokenizer_file(const std::filesystem::path& model_folder);

}  // namespace longlora
