#include "data/demonstration.hpp"

#include <algorithm>
#include <array>
#include <string>

#include "core/error.hpp"
#include "core/random.hpp"

namespace longlora {
namespace {

using Documents = DemonstrationDocuments;

constexpr std::uint64_t documents_seed = 1;  // the same documents in every run, whatever its seed
constexpr std::uint64_t training_stream = 0;
constexpr std::uint64_t validation_stream = 1ULL << 32U;

constexpr Index training_documents = 16384;
constexpr Index validation_documents = 64;

constexpr std::uint64_t visit_tokens = 32;  // mean stay in a topic
constexpr double main_share = 0.85;         // of the steps that lead to the next word of the circle

// Under each heading the other steps lead this many words on.
constexpr std::array<std::uint64_t, Documents::headings> side_step = {3, 5};

// Random numbers 4 t .. 4 t + 3 belong to token t; the variants have a key of their own.
void write_document(std::uint64_t key, std::span<std::int32_t> tokens) {
    const std::uint64_t variants_key = mix_bits(key);
    std::uint64_t heading = 0;
    std::uint64_t topic = 0;
    std::uint64_t place = 0;
    bool is_new_visit = false;
    for (std::size_t t = 0; t < tokens.size(); ++t) {
        if (t == 0 || (!is_new_visit && random_bits(key, 4 * t) % visit_tokens == 0)) {
            heading = random_bits(key, 4 * t + 1) % Documents::headings;
            tokens[t] = static_cast<std::int32_t>(Documents::first_heading + heading);
            is_new_visit = true;
            continue;
        }
        if (is_new_visit) {
            topic = random_bits(key, 4 * t + 1) % Documents::topics;
            place = random_bits(key, 4 * t + 2) % Documents::topic_words;
            is_new_visit = false;
        } else {
            const bool is_main = random_uniform(key, 4 * t + 3) < main_share;
            place = (place + (is_main ? 1 : side_step[heading])) % Documents::topic_words;
        }
        const std::uint64_t word = topic * Documents::topic_words + place;
        const std::uint64_t variant = random_bits(variants_key, word) % Documents::variants;
        tokens[t] = static_cast<std::int32_t>(word * Documents::variants + variant);
    }
}

}  // namespace

DemonstrationDocuments::DemonstrationDocuments(bool is_validation, Index model_vocabulary)
    : is_validation_(is_validation) {
    require(model_vocabulary >= vocabulary,
            "the built-in documents use " + std::to_string(vocabulary) +
                " tokens, but the model's vocabulary has " + std::to_string(model_vocabulary) +
                "; set data.train and data.validation to files made for the model, or model.path "
                "to builtin");
}

Index DemonstrationDocuments::size() const {
    return (is_validation_ ? validation_documents : training_documents) * document_tokens;
}

std::span<const std::int32_t> DemonstrationDocuments::document(Index index) const {
    if (index != cached_) {
        const std::uint64_t stream = (is_validation_ ? validation_stream : training_stream) +
                                     static_cast<std::uint64_t>(index);
        cache_.resize(document_tokens);
        write_document(random_key(documents_seed, Purpose::documents, stream), cache_);
        cached_ = index;
    }
    return cache_;
}

void DemonstrationDocuments::read(Range range, std::span<std::int32_t> tokens) const {
    require(0 <= range.begin && range.begin <= range.end && range.end <= size() &&
                static_cast<std::size_t>(range.size()) == tokens.size(),
            "the built-in documents have no tokens " + std::to_string(range.begin) + " to " +
                std::to_string(range.end));
    auto out = tokens.begin();
    while (range.begin < range.end) {
        const Index first = range.begin % document_tokens;
        const Index count = std::min(document_tokens - first, range.size());
        const auto part =
            document(range.begin / document_tokens)
                .subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
        out = std::ranges::copy(part, out).out;
        range.begin += count;
    }
}

}  // namespace longlora
