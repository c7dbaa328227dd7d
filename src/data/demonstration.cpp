#include "data/demonstration.hpp"

#include <algorithm>
#include <array>
#include <string>

#include "core/error.hpp"
#include "core/random.hpp"

namespace longlora {
namespace {

using Documents = DemonstrationDocuments;

constexpr std::uint64_t language_seed = 20260101;  // the documents do not depend on run.seed
constexpr std::uint64_t language_stream = 0;
constexpr std::uint64_t training_stream = 1;
constexpr std::uint64_t validation_stream = 1ULL << 32U;

constexpr Index training_documents = 16384;
constexpr Index validation_documents = 64;

constexpr std::size_t topics = 32;
constexpr std::size_t topic_words = 16;
constexpr std::uint64_t visit_tokens = 32;  // mean stay in a topic

// Words of a topic stand in a circle; the next one is so many places on, so often (of 256).
struct Step {
    std::size_t places;
    std::uint64_t below;  // cumulated
};
constexpr std::array<Step, 4> steps = {{{1, 128}, {3, 192}, {5, 230}, {7, 256}}};

using Topic = std::array<std::int32_t, topic_words>;

// Every word is in as many topics as any other: the topics deal out shuffled packs of all words.
std::array<Topic, topics> make_topics() {
    std::array<Topic, topics> result{};
    for (std::size_t i = 0; i < topics * topic_words; ++i) {
        const std::uint64_t pack = i / Documents::words;
        const std::uint64_t key = random_key(language_seed, Purpose::documents, language_stream + pack * 2);
        result[i / topic_words][i % topic_words] = static_cast<std::int32_t>(
            permuted(key, i % Documents::words, Documents::words));
    }
    return result;
}

// The successive bits of one random word, a few at a time.
class Bits {
public:
    explicit Bits(std::uint64_t bits) : bits_(bits) {}
    std::uint64_t below(std::uint64_t bound) {  // a power of two
        const std::uint64_t value = bits_ % bound;
        bits_ /= bound;
        return value;
    }

private:
    std::uint64_t bits_;
};

std::size_t places_on(std::uint64_t draw) {
    return std::find_if(steps.begin(), steps.end(), [&](const Step& step) { return draw < step.below; })
        ->places;
}

void write_document(std::uint64_t key, std::span<std::int32_t> tokens) {
    static const auto all_topics = make_topics();
    const std::uint64_t variant_key = mix_bits(key + 1);
    std::size_t topic = 0;
    std::size_t place = 0;
    for (std::size_t t = 0; t < tokens.size(); ++t) {
        Bits bits(random_bits(key, t));
        place = (place + places_on(bits.below(256))) % topic_words;
        if (bits.below(visit_tokens) == 0 || t == 0) {
            topic = bits.below(topics);
            place = bits.below(topic_words);
        }
        const std::int32_t word = all_topics[topic][place];
        const auto variant = random_bits(variant_key, static_cast<std::uint64_t>(word)) % Documents::variants;
        tokens[t] = word * static_cast<std::int32_t>(Documents::variants) + static_cast<std::int32_t>(variant);
    }
}

}  // namespace

DemonstrationDocuments::DemonstrationDocuments(bool is_validation, Index model_vocabulary)
    : is_validation_(is_validation) {
    require(model_vocabulary >= vocabulary,
            "the built-in documents use " + std::to_string(vocabulary) +
                " tokens, but the model's vocabulary has only " + std::to_string(model_vocabulary) +
                "; give data.train and data.validation files that fit the model, or take model.path "
                "builtin");
}

Index DemonstrationDocuments::size() const {
    return (is_validation_ ? validation_documents : training_documents) * document_tokens;
}

std::span<const std::int32_t> DemonstrationDocuments::document(Index index) const {
    if (index != cached_) {
        const auto stream = (is_validation_ ? validation_stream : training_stream) + static_cast<std::uint64_t>(index);
        cache_.resize(document_tokens);
        write_document(random_key(language_seed, Purpose::documents, stream), cache_);
        cached_ = index;
    }
    return cache_;
}

void DemonstrationDocuments::read(Range range, std::span<std::int32_t> tokens) const {
    require(0 <= range.begin && range.end <= size() && static_cast<std::size_t>(range.size()) == tokens.size(),
            "the built-in documents have no tokens " + std::to_string(range.begin) + " to " +
                std::to_string(range.end));
    auto out = tokens.begin();
    for (Index at = range.begin; at < range.end;) {
        const Index index = at / document_tokens;
        const Index first = at % document_tokens;
        const Index count = std::min(document_tokens - first, range.end - at);
        out = std::ranges::copy(document(index).subspan(first, count), out).out;
        at += count;
    }
}

}  // namespace longlora
