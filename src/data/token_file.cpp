#include "data/token_file.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <string_view>
#include <variant>

#include "core/error.hpp"
#include "data/npy_header.hpp"
#include "io/mapped_file.hpp"

namespace longlora {
namespace {

constexpr Index largest_16_bit_vocabulary = 65536;

using TokenSpan = std::span<std::int32_t>;

// Tokens as stored become int32; a uint32 beyond it becomes negative and so fails the check.
template <class Stored>
void convert(std::span<const Stored> stored, TokenSpan tokens) {
    std::transform(stored.begin(), stored.end(), tokens.begin(),
                   [](Stored token) { return static_cast<std::int32_t>(token); });
}

template <class Stored>
void read_dataset(const Hdf5Dataset& dataset, Range range, TokenSpan tokens) {
    std::vector<Stored> stored(tokens.size());
    dataset.read(range, std::span<Stored>(stored));
    convert(std::span<const Stored>(stored), tokens);
}

// Tokens of one width, one after another in a mapped file.
struct MappedTokens {
    MappedFile file;
    std::size_t offset;  // of the first token, in bytes
    Hdf5Type type;

    template <class Stored>
    void read(Range range, TokenSpan tokens) const {
        std::vector<Stored> stored(tokens.size());  // the data may lie at odd addresses
        const std::size_t begin = offset + sizeof(Stored) * static_cast<std::size_t>(range.begin);
        std::memcpy(stored.data(), file.bytes().data() + begin, sizeof(Stored) * stored.size());
        convert(std::span<const Stored>(stored), tokens);
    }
};

struct StoredTokens {
    Hdf5Dataset dataset;

    template <class Stored>
    void read(Range range, TokenSpan tokens) const {
        read_dataset<Stored>(dataset, range, tokens);
    }
};

std::string text_or_empty(const Hdf5Object& object, const std::string& name) {
    const Attribute value = object.has_attribute(name) ? object.attribute(name) : std::string();
    return std::holds_alternative<std::string>(value) ? std::get<std::string>(value) : "";
}

Index number_or_zero(const Hdf5Object& object, const std::string& name) {
    const Attribute value = object.has_attribute(name) ? object.attribute(name) : Attribute(0.0);
    if (const auto* number = std::get_if<std::int64_t>(&value)) {
        return *number;
    }
    const auto* number = std::get_if<std::uint64_t>(&value);
    return number != nullptr ? static_cast<Index>(*number) : 0;
}

// The token ranges of the prompts, one a document; checked, because labels depend on them.
std::vector<Range> read_prompts(const Hdf5File& file, Index size) {
    std::vector<Range> prompts;
    if (!file.contains("/prompt_ends")) {
        return prompts;
    }
    const auto starts = file.dataset("/documents").read_all<std::uint64_t>();
    const auto ends = file.dataset("/prompt_ends").read_all<std::uint64_t>();
    require(starts.size() == ends.size() + 1 && starts.front() == 0 &&
                starts.back() == static_cast<std::uint64_t>(size),
            file.path() +
                ": /documents must hold one entry more than /prompt_ends, from 0 to the " +
                "number of tokens; write the file anew with the command prepare");
    for (std::size_t d = 0; d < ends.size(); ++d) {
        require(
            starts[d] <= ends[d] && ends[d] <= starts[d + 1],
            file.path() + ": the prompt of document " + std::to_string(d) +
                " does not end inside the document; write the file anew with the command prepare");
        prompts.push_back({static_cast<Index>(starts[d]), static_cast<Index>(ends[d])});
    }
    return prompts;
}

bool starts_with(const MappedFile& file, std::string_view magic) {
    return file.text().starts_with(magic);
}

constexpr std::string_view hdf5_magic = "\x89HDF\r\n\x1a\n";

}  // namespace

struct TokenFile::Source {
    std::variant<StoredTokens, MappedTokens> tokens;
    Hdf5Type type;
};

TokenFile::TokenFile(const std::string& path, Index vocabulary)
    : path_(path), vocabulary_(vocabulary) {
    MappedFile file(path);
    if (starts_with(file, hdf5_magic)) {
        open_hdf5();
    } else if (starts_with(file, npy_magic)) {
        open_npy(std::move(file));
    } else {
        require(path.ends_with(".bin"),
                path + " holds no tokens that can be read here: give a tokens.h5 " +
                    "(command prepare), a flat .bin of uint16 or uint32, or a " + ".npy of int32");
        open_flat(std::move(file));
    }
}

TokenFile::~TokenFile() = default;
TokenFile::TokenFile(TokenFile&& other) noexcept = default;
TokenFile& TokenFile::operator=(TokenFile&& other) noexcept = default;

void TokenFile::open_hdf5() {
    const Hdf5File file = Hdf5File::open(path_);
    require(file.contains("/tokens"),
            path_ + " has no dataset /tokens; give a file that the command prepare has written");
    Hdf5Dataset dataset = file.dataset("/tokens");
    const Hdf5Type type = dataset.type();
    require(dataset.shape().size() == 1 && (type == Hdf5Type::uint16 || type == Hdf5Type::uint32),
            path_ + ": /tokens must be one-dimensional, of type uint16 or uint32");
    size_ = dataset.size();
    prompts_ = read_prompts(file, size_);
    info_ = {text_or_empty(file, "tokenizer"), text_or_empty(file, "tokenizer_digest"),
             number_or_zero(file, "vocabulary_size"), !prompts_.empty()};
    require(info_.vocabulary <= vocabulary_,
            path_ + " was made with a tokenizer of " + std::to_string(info_.vocabulary) +
                " entries (" + info_.tokenizer + "), but the model's vocabulary has " +
                std::to_string(vocabulary_) + "; prepare it with the tokenizer of the model");
    source_ = std::make_unique<Source>(Source{StoredTokens{std::move(dataset)}, type});
}

void TokenFile::open_npy(MappedFile file) {
    const NpyHeader header = read_npy_header(path_, file.text());
    size_ = header.size;
    source_ = std::make_unique<Source>(
        Source{MappedTokens{std::move(file), header.offset, Hdf5Type::int32}, Hdf5Type::int32});
}

void TokenFile::open_flat(MappedFile file) {
    const bool is_narrow = vocabulary_ <= largest_16_bit_vocabulary;
    const std::size_t width = is_narrow ? sizeof(std::uint16_t) : sizeof(std::uint32_t);
    const std::size_t bytes = file.bytes().size();
    require(bytes % width == 0,
            path_ + " has " + std::to_string(bytes) + " bytes, which is no multiple of " +
                std::to_string(width) + ": with a vocabulary of " + std::to_string(vocabulary_) +
                " a .bin file holds uint" + std::to_string(8 * width) + "; write it anew");
    size_ = static_cast<Index>(bytes / width);
    const Hdf5Type type = is_narrow ? Hdf5Type::uint16 : Hdf5Type::uint32;
    source_ = std::make_unique<Source>(Source{MappedTokens{std::move(file), 0, type}, type});
}

void TokenFile::read(Range range, std::span<std::int32_t> tokens) const {
    ensure(
        range.begin >= 0 && range.end <= size_ && range.size() == static_cast<Index>(tokens.size()),
        "a read of " + path_ + " reaches beyond its tokens");
    std::visit(
        [&](const auto& source) {
            switch (source_->type) {
                case Hdf5Type::uint16:
                    return source.template read<std::uint16_t>(range, tokens);
                case Hdf5Type::uint32:
                    return source.template read<std::uint32_t>(range, tokens);
                default:
                    return source.template read<std::int32_t>(range, tokens);
            }
        },
        source_->tokens);
    check(range.begin, tokens);
}

void TokenFile::check(Index begin, std::span<const std::int32_t> tokens) const {
    const auto bad = std::find_if(tokens.begin(), tokens.end(), [&](std::int32_t token) {
        return token < 0 || token >= vocabulary_;
    });
    if (bad == tokens.end()) {
        return;
    }
    const bool is_unsigned = source_->type != Hdf5Type::int32;
    const Index value = is_unsigned ? Index{static_cast<std::uint32_t>(*bad)} : Index{*bad};
    require(false, path_ + ": token " + std::to_string(begin + (bad - tokens.begin())) + " is " +
                       std::to_string(value) + ", but the model's vocabulary has " +
                       std::to_string(vocabulary_) +
                       " entries; the file was made with another tokenizer");
}

template <class Visit>
void TokenFile::each_prompt(Range range, const Visit& visit) const {
    auto prompt = std::upper_bound(prompts_.begin(), prompts_.end(), range.begin,
                                   [](Index at, Range candidate) { return at < candidate.end; });
    for (; prompt != prompts_.end() && prompt->begin < range.end; ++prompt) {
        const Index begin = std::max(prompt->begin, range.begin) - range.begin;
        const Index end = std::min(prompt->end, range.end) - range.begin;
        visit(Range{begin, std::max(begin, end)});
    }
}

void TokenFile::read_labels(Range range, std::span<std::int32_t> labels) const {
    read(range, labels);
    each_prompt(range, [&](Range prompt) {
        std::fill(labels.begin() + prompt.begin, labels.begin() + prompt.end, ignored_label);
    });
}

Index TokenFile::count_labels(Range range) const {
    Index count = range.size();
    each_prompt(range, [&](Range prompt) { count -= prompt.size(); });
    return count;
}

}  // namespace longlora
