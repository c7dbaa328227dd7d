#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/view.hpp"

namespace longlora {

// Documents with long-range structure, made from their index alone: the data of the default run.
//
// The language has words, each in several variants; a token is a word in one variant. Words belong
// to topics. Inside a topic a fixed Markov chain goes from word to word; now and then a document
// leaves its topic for another. Which word comes next is thus local knowledge, the same in every
// document. But which variant of a word is used is a fact of the document: free when the word first
// comes, fixed from then on, and needed again when the word's topics return, often thousands of
// tokens later. So perplexity falls with context for a model that can use it.
class DemonstrationDocuments {
public:
    static constexpr Index words = 256;
    static constexpr Index variants = 8;
    static constexpr Index vocabulary = words * variants;  // a token is word * variants + variant
    static constexpr Index document_tokens = 16384;

    // is_validation: documents that training never sees. The model must hold the documents' tokens.
    DemonstrationDocuments(bool is_validation, Index model_vocabulary);

    Index size() const;  // tokens
    void read(Range range, std::span<std::int32_t> tokens) const;

private:
    std::span<const std::int32_t> document(Index index) const;

    bool is_validation_;
    // The last document read: rows are shorter than documents, and chunks shorter than rows.
    mutable Index cached_ = -1;
    mutable std::vector<std::int32_t> cache_;
};

}  // namespace longlora
