#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/view.hpp"
#include "data/bpe.hpp"
#include "data/text_splitter.hpp"
#include "io/json.hpp"

namespace longlora {

// What a tokenizer.json of Hugging Face's says, as far as models of LLaMA's kind have it: BPE of bytes, words
// cut by a pattern before (GPT-2, LLaMA 3), or of characters, with bytes for unknown ones (what LLaMA 2's
// SentencePiece model becomes there).           (github.com/huggingface/tokenizers, version 0.23)
// Everything else is refused by an Error that names file and part.
class JsonTokenizer {
public:
    // `settings`: tokenizer_config.json, which names BOS and EOS; may be empty.
    JsonTokenizer(const Json& json, const Json& settings, const std::string& name);

    // Added tokens ("<|eot_id|>") in a text become their ids, as there.
    std::vector<std::int32_t> encode(std::string_view text) const;
    // Special tokens give no text. Ids must be in the vocabulary.
    std::string decode(std::span<const std::int32_t> ids) const;

    Index vocabulary_size() const { return static_cast<Index>(tokens_.size()); }
    std::int32_t bos() const { return bos_; }  // -1 = has none
    std::int32_t eos() const { return eos_; }

private:
    static constexpr std::int32_t none = -1;
    struct Added {
        std::string content;
        std::int32_t id;
    };
    using Change = std::function<std::string(std::string text, bool is_first)>;

    void add_token(const std::string& token, std::size_t index, bool is_special);
    void read_model(const Json& model);
    void read_added(const Json& added);
    void read_change(const Json& normalizer);
    void read_cut(const Json& pre_tokenizer);
    void read_metaspace(const Json& metaspace);
    void read_byte_level(const Json& byte_level);
    void find_bytes();
    std::vector<Bpe::Merge> merges_of(const Json& model) const;

    std::int32_t id_of(const std::string& token) const;  // or none
    [[noreturn]] void refuse(const std::string& what) const;
    void encode_between(std::string_view text, bool is_first, std::vector<std::int32_t>& ids) const;
    void encode_word(std::string_view word, std::vector<std::int32_t>& ids) const;
    std::vector<std::int32_t> symbols_of(std::string_view word) const;

    std::string name_;
    std::vector<std::string> tokens_;  // by id
    std::vector<bool> is_special_;     // by id
    std::unordered_map<std::string, std::int32_t> ids_;
    std::vector<Added> added_;
    std::optional<Bpe> bpe_;
    bool is_byte_level_ = false;
    bool takes_whole_words_ = false;  // ignore_merges
    bool fuses_unknown_ = false;
    bool prepends_space_ = false;  // which is no part of the text
    std::int32_t unknown_ = none;
    std::array<std::int32_t, 256> bytes_{};  // symbols of bytes, or none
    std::vector<Change> changes_;
    std::vector<TextSplitter> cuts_;
    std::int32_t bos_ = none;
    std::int32_t eos_ = none;
};

}  // namespace longlora
