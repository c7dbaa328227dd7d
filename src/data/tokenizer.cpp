#include "data/tokenizer.hpp"

#include <exception>
#include <optional>
#include <utility>

#include <sentencepiece_processor.h>

#include "core/error.hpp"
#include "core/text.hpp"
#include "data/tokenizer_json.hpp"
#include "io/digest.hpp"
#include "io/mapped_file.hpp"

namespace longlora {
namespace {

constexpr std::int32_t byte_ids = 256;
constexpr std::int32_t byte_bos = 256;
constexpr std::int32_t byte_eos = 257;
constexpr Index byte_vocabulary = 258;

// A space grows to three bytes inside SentencePiece, and lengths there are int.
constexpr std::size_t longest_text = 512ULL << 20U;

// SentencePiece returns a status, but what it is built of throws on a damaged model.
template <class Call>
std::string fault_of(const Call& call) {
    try {
        const sentencepiece::util::Status status = call();
        return status.ok() ? "" : status.ToString();
    } catch (const std::exception& fault) {
        return fault.what();
    }
}

}  // namespace

struct Tokenizer::Model {
    std::string name;
    std::uint64_t digest = 0;
    // Neither: bytes.
    std::optional<sentencepiece::SentencePieceProcessor> pieces;
    std::optional<JsonTokenizer> json;
};

Tokenizer::Tokenizer(std::unique_ptr<Model> model) : model_(std::move(model)) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&& other) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&& other) noexcept = default;

Tokenizer Tokenizer::bytes() {
    auto model = std::make_unique<Model>();
    model->name = "bytes";
    model->digest = digest_of("longlora bytes 1: 256 bytes, bos 256, eos 257");
    return Tokenizer(std::move(model));
}

Tokenizer Tokenizer::sentencepiece(const std::filesystem::path& path) {
    const MappedFile file(path);
    auto tokenizer = sentencepiece(file.text(), path.string());
    tokenizer.model_->name = path.filename().string();
    return tokenizer;
}

Tokenizer Tokenizer::sentencepiece(std::string_view bytes, const std::string& name) {
    auto model = std::make_unique<Model>();
    model->name = name;
    model->digest = digest_of(bytes);
    const std::string fault = fault_of([&] {
        return model->pieces.emplace().LoadFromSerializedProto({bytes.data(), bytes.size()});
    });
    require(!bytes.empty() && fault.empty(),
            name + " is not a SentencePiece model, or damaged (" + fault +
                "); give the tokenizer.model that came with the base model");
    return Tokenizer(std::move(model));
}

Tokenizer Tokenizer::json(const std::filesystem::path& path) {
    const MappedFile file(path);
    const auto settings_path = path.parent_path() / "tokenizer_config.json";
    std::error_code none;
    Json settings;
    if (std::filesystem::is_regular_file(settings_path, none)) {
        settings = parse_json_object(MappedFile(settings_path).text(), settings_path.string());
    }
    auto model = std::make_unique<Model>();
    model->name = path.filename().string();
    model->digest = digest_of(file.bytes());
    model->json.emplace(parse_json_object(file.text(), path.string()), settings, path.string());
    return Tokenizer(std::move(model));
}

Tokenizer Tokenizer::open(const std::filesystem::path& path) {
    return path.extension() == ".json" ? json(path) : sentencepiece(path);
}

std::filesystem::path tokenizer_file(const std::filesystem::path& model_folder) {
    const auto model = model_folder / "tokenizer.model";
    const auto json = model_folder / "tokenizer.json";
    std::error_code none;
    return !std::filesystem::exists(model, none) && std::filesystem::exists(json, none) ? json
                                                                                        : model;
}

// SentencePiece takes the text as one string: BPE merges may cross any cut, and it puts a space
// before whatever it is given, so pieces encoded apart would give other ids. Its time is that of
// sorting (3.3 MB of a novel, 32000 BPE pieces: 7 s on one core of a busy EPYC; twice the text
// takes 2.3 times as long), its memory 100 to 160 bytes per byte of text.
std::vector<std::int32_t> Tokenizer::encode(std::string_view text) const {
    std::vector<std::int32_t> ids;
    if (model_->json) {
        return model_->json->encode(text);
    }
    if (!model_->pieces) {
        ids.reserve(text.size());
        for (const char byte : text) {
            ids.push_back(static_cast<unsigned char>(byte));
        }
        return ids;
    }
    require(text.size() <= longest_text,
            "a document of " + format_bytes(static_cast<double>(text.size())) +
                " is too long for SentencePiece, which takes " +
                format_bytes(static_cast<double>(longest_text)) + "; split it into several");
    const std::string fault = fault_of([&] {
        return model_->pieces->Encode({text.data(), text.size()}, &ids);
    });
    require(fault.empty(), model_->name + " cannot encode a text: " + fault +
                               "; give the tokenizer.model that came with the base model");
    return ids;
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids) const {
    for (const auto id : ids) {
        require(0 <= id && id < vocabulary_size(),
                "token id " + std::to_string(id) + " is not in the vocabulary of tokenizer " +
                    model_->name + ", 0 to " + std::to_string(vocabulary_size() - 1));
    }
    if (model_->json) {
        return model_->json->decode(ids);
    }
    std::string text;
    if (!model_->pieces) {
        for (const auto id : ids) {
            if (id < byte_ids) {
                text.push_back(static_cast<char>(id));
            }
        }
        return text;
    }
    const std::vector<int> pieces(ids.begin(), ids.end());
    const std::string fault = fault_of([&] { return model_->pieces->Decode(pieces, &text); });
    require(fault.empty(), model_->name + " cannot decode token ids: " + fault +
                               "; give the tokenizer.model that came with the base model");
    return text;
}

Index Tokenizer::vocabulary_size() const {
    return model_->json     ? model_->json->vocabulary_size()
           : model_->pieces ? model_->pieces->GetPieceSize()
                            : byte_vocabulary;
}

std::int32_t Tokenizer::bos() const {
    return model_->json     ? model_->json->bos()
           : model_->pieces ? model_->pieces->bos_id()
                            : byte_bos;
}

std::int32_t Tokenizer::eos() const {
    return model_->json     ? model_->json->eos()
           : model_->pieces ? model_->pieces->eos_id()
                            : byte_eos;
}

const std::string& Tokenizer::name() const { return model_->name; }

std::uint64_t Tokenizer::digest() const { return model_->digest; }

}  // namespace longlora
