#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/view.hpp"

namespace longlora {

// Documents with long-range structure, made from their index alone: the data of the default run.
//
// Their language has words, each in several variants; a token is a word in one variant. Words belong
// to topics. Inside a topic a fixed Markov chain leads from word to word; now and then a document
// leaves its topic for another. Which word comes next is local knowledge, the same in all documents.
// Which variant of the word is used is a fact of the document: it shows when the word first comes,
// holds from then on, and is needed again when the topic returns, often thousands of tokens later.
// So perplexity falls with context for a model that can use it.
class DemonstrationDocuments {
public:
    static constexpr Index topics = 16;
    static constexpr Index topic_words = 8;
    static constexpr Index variants = 8;
    static constexpr Index vocabulary = topics * topic_words * variants;
    static constexpr Index document_tokens = 16384;

    // is_validation: documents that training never sees. The model must hold the documents' tokens.
    DemonstrationDocuments(bool is_validation, Index model_vocabulary);

    Index size() const;  // tokens
    void read(Range range, std::span<std::int32_t> tokens) const;

    // A token is (topic * topic_words + place) * variants + variant.
    static std::int32_t word_of(std::int32_t token) {
        return token / static_cast<std::int32_t>(variants);
    }

private:
    std::span<const std::int32_t> document(Index index) const;

    bool is_validation_;
    // The document read last: rows are shorter than documents, and shards shorter than rows.
    mutable Index cached_ = -1;
    mutable std::vector<std::int32_t> cache_;
};

}  // namespace longlora
