#include "data/demonstration.hpp"

#include <algorithm>
#include <string>

#include "core/error.hpp"
#include "core/random.hpp"

namespace longlora {
namespace {

using Documents = DemonstrationDocuments;

constexpr std::uint64_t documents_seed = 1;  // the same documents in every run, whatever its seed
constexpr std::uint64_t streams_apart = 1ULL << 32U;  // documents of a set are fewer than this

constexpr Index training_documents = 16384;
constexpr Index validation_documents = 64;

constexpr std::uint64_t visit_tokens = 32;  // mean stay in a topic

// The words of a topic stand in a circle. From one to the next it is 1, 3 or 5 places.
constexpr std::uint64_t places_on(double uniform) {
    return uniform < 0.7 ? 1 : uniform < 0.9 ? 3 : 5;
}

// The topic of a visit. Among favourites the k-th has share 1/k of the first one's.
std::uint64_t choose_topic(Documents::Set set, std::uint64_t key, std::uint64_t t) {
    constexpr auto topics = static_cast<std::uint64_t>(Documents::topics);
    if (set == Documents::Set::base) {
        return random_bits(key, 4 * t + 1) % topics;
    }
    double total = 0;
    for (std::uint64_t k = 1; k <= topics; ++k) {
        total += 1.0 / static_cast<double>(k);
    }
    double left = total * random_uniform(key, 4 * t + 1);
    std::uint64_t favourite = 0;
    while (favourite + 1 < topics && left >= 1.0 / static_cast<double>(favourite + 1)) {
        left -= 1.0 / static_cast<double>(favourite + 1);
        ++favourite;
    }
    return permuted(mix_bits(key + 1), favourite, topics);
}

// Random numbers 4 t .. 4 t + 3 belong to token t; the variants have a key of their own.
void write_document(Documents::Set set, std::uint64_t key, std::span<std::int32_t> tokens) {
    const std::uint64_t variants_key = mix_bits(key);
    std::uint64_t topic = 0;
    std::uint64_t place = 0;
    for (std::size_t t = 0; t < tokens.size(); ++t) {
        if (t == 0 || random_bits(key, 4 * t) % visit_tokens == 0) {
            topic = choose_topic(set, key, t);
            place = random_bits(key, 4 * t + 2) % Documents::topic_words;
        } else {
            place = (place + places_on(random_uniform(key, 4 * t + 3))) % Documents::topic_words;
        }
        const std::uint64_t word = topic * Documents::topic_words + place;
        const std::uint64_t variant = random_bits(variants_key, word) % Documents::variants;
        tokens[t] = static_cast<std::int32_t>(word * Documents::variants + variant);
    }
}

}  // namespace

DemonstrationDocuments::DemonstrationDocuments(Set set, Index model_vocabulary) : set_(set) {
    require(model_vocabulary >= vocabulary,
            "the built-in documents use " + std::to_string(vocabulary) +
                " tokens, but the model's vocabulary has " + std::to_string(model_vocabulary) +
                "; set data.train and data.validation to files made for the model, or model.path "
                "to builtin");
}

Index DemonstrationDocuments::size() const {
    return (set_ == Set::validation ? validation_documents : training_documents) * document_tokens;
}

std::span<const std::int32_t> DemonstrationDocuments::document(Index index) const {
    if (index != cached_) {
        const std::uint64_t stream =
            static_cast<std::uint64_t>(set_) * streams_apart + static_cast<std::uint64_t>(index);
        cache_.resize(document_tokens);
        write_document(set_, random_key(documents_seed, Purpose::documents, stream), cache_);
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
