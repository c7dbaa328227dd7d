#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/view.hpp"

namespace longlora {

// Documents with long-range structure, made from their index alone: the data of the default run.
//
// Their language has words, each in several variants; a token is a word in one variant. The words of
// a topic stand in a circle. A document visits topics: a heading, then a walk over the topic's words,
// mostly one word on, else a side step whose length the heading has said. Which word comes next is
// known from the visit, but to tell the side step one must find its heading, at an exact distance.
// Which variant of a word is used is a fact of the document: it shows when the word first comes,
// holds from then on, and is needed again when the topic returns, often thousands of tokens later.
// So perplexity falls with context for a model that can use it.
class DemonstrationDocuments {
public:
    static constexpr Index topics = 24;
    static constexpr Index topic_words = 8;
    static constexpr Index variants = 8;
    static constexpr Index headings = 2;
    static constexpr Index first_heading =
        topics * topic_words * variants;  // their tokens are last
    static constexpr Index vocabulary = first_heading + headings;
    static constexpr Index document_tokens = 16384;

    // is_validation: documents that training never sees. The model must hold the documents' tokens.
    DemonstrationDocuments(bool is_validation, Index model_vocabulary);

    Index size() const;  // tokens
    void read(Range range, std::span<std::int32_t> tokens) const;

    static bool is_heading(std::int32_t token) { return token >= first_heading; }
    // Other tokens are (topic * topic_words + place) * variants + variant.
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
