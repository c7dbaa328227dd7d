#include "data/tokenizer_json.hpp"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "core/error.hpp"
#include "data/byte_alphabet.hpp"
#include "data/utf8.hpp"

namespace longlora {
namespace {

const std::string metaspace_mark = "\xE2\x96\x81";  // U+2581, which stands for a space

// How GPT-2 cuts words, which byte-level pre-tokenizers without a pattern of their own do.
constexpr const char* gpt2_words =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

const std::string remedy = "; give the tokenizer that came with the base model";

std::size_t index_of(const Json& id, const std::string& name) {
    constexpr std::int64_t most = 1 << 22;  // a table of tokens stays small, whatever the file says
    require(id.is_number_integer() && id >= 0 && id < most,
            name + ": an id of a token is " + describe(id) + remedy);
    return id.get<std::size_t>();
}

// "" of a part that is not there.
std::string type_of(const Json& part) {
    if (part.is_null()) {
        return "";
    }
    const auto type = part.find("type");
    return type != part.end() && type->is_string() ? type->get<std::string>() : describe(part);
}

const Json& member(const Json& object, const char* key) {
    static const Json nothing;
    const auto found = object.is_object() ? object.find(key) : object.end();
    return object.is_object() && found != object.end() ? *found : nothing;
}

std::string text_of(const Json& value) { return value.is_string() ? value.get<std::string>() : ""; }

bool is_true(const Json& object, const char* key, bool otherwise) {
    const Json& value = member(object, key);
    return value.is_boolean() ? value.get<bool>() : otherwise;
}

std::string replaced(std::string_view text, std::string_view from, std::string_view to) {
    std::string result;
    result.reserve(text.size());
    for (std::size_t at = text.find(from); at != std::string_view::npos; at = text.find(from)) {
        result.append(text.substr(0, at)).append(to);
        text.remove_prefix(at + from.size());
    }
    return result.append(text);
}

// BOS and EOS stand there as texts, or as objects around them.
std::string token_named(const Json& settings, const char* key) {
    const Json& token = member(settings, key);
    return token.is_object() ? text_of(member(token, "content")) : text_of(token);
}

std::string byte_token(int byte) {
    std::array<char, 8> text{};
    std::snprintf(text.data(), text.size(), "<0x%02X>", static_cast<unsigned>(byte));
    return text.data();
}

}  // namespace

JsonTokenizer::JsonTokenizer(const Json& json, const Json& settings, const std::string& name)
    : name_(name) {
    read_model(member(json, "model"));
    read_added(member(json, "added_tokens"));
    read_change(member(json, "normalizer"));
    read_cut(member(json, "pre_tokenizer"));
    find_bytes();
    bos_ = id_of(token_named(settings, "bos_token"));
    eos_ = id_of(token_named(settings, "eos_token"));
}

void JsonTokenizer::refuse(const std::string& what) const {
    throw Error(
        name_ + ": " + what +
            " is not supported; give prepare.tokenizer a tokenizer.model, or prepare tokens "
            "elsewhere: data.train takes flat .bin and .npy files",
        ExitCode::bad_input);
}

std::int32_t JsonTokenizer::id_of(const std::string& token) const {
    const auto found = ids_.find(token);
    return found == ids_.end() ? none : found->second;
}

void JsonTokenizer::add_token(const std::string& token, std::size_t index, bool is_special) {
    tokens_.resize(std::max(tokens_.size(), index + 1));
    is_special_.resize(tokens_.size());
    tokens_[index] = token;
    is_special_[index] = is_special;
    ids_[token] = static_cast<std::int32_t>(index);
}

void JsonTokenizer::read_model(const Json& model) {
    const Json& vocabulary = member(model, "vocab");
    if (text_of(member(model, "type")) != "BPE" || !vocabulary.is_object()) {
        refuse("a model that is not BPE");
    }
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
        if (!text_of(member(model, key)).empty()) {
            refuse(std::string("model.") + key);
        }
    }
    for (const auto& [token, id] : vocabulary.items()) {
        const std::size_t index = index_of(id, name_);
        add_token(token, index, false);
    }
    takes_whole_words_ = is_true(model, "ignore_merges", false);
    fuses_unknown_ = is_true(model, "fuse_unk", false);
    unknown_ = id_of(text_of(member(model, "unk_token")));
    bpe_.emplace(merges_of(model));
}

// "left right", or, where tokens have spaces, ["left", "right"].
std::vector<Bpe::Merge> JsonTokenizer::merges_of(const Json& model) const {
    std::vector<Bpe::Merge> merges;
    for (const Json& merge : member(model, "merges")) {
        std::string left;
        std::string right;
        if (merge.is_array() && merge.size() == 2) {
            left = text_of(merge[0]);
            right = text_of(merge[1]);
        } else {
            const std::string both = text_of(merge);
            const std::size_t space = both.find(' ');
            left = both.substr(0, space);
            right = space == std::string::npos ? "" : both.substr(space + 1);
        }
        const Bpe::Merge ids{id_of(left), id_of(right), id_of(left + right)};
        require(ids.left >= 0 && ids.right >= 0 && ids.joined >= 0,
                name_ + ": the merge " + describe(merge) + " is of tokens that are not in vocab" +
                    remedy);
        merges.push_back(ids);
    }
    return merges;
}

void JsonTokenizer::read_added(const Json& added) {
    for (const Json& token : added) {
        const std::string content = text_of(member(token, "content"));
        require(!content.empty(), name_ + ": an added token is " + describe(token) + remedy);
        for (const char* key : {"lstrip", "rstrip", "single_word"}) {
            if (is_true(token, key, false)) {
                refuse("the added token '" + content + "' with " + key);
            }
        }
        const std::size_t index = index_of(member(token, "id"), name_);
        add_token(content, index, is_true(token, "special", false));
        added_.push_back({content, static_cast<std::int32_t>(index)});
    }
    // Of two that begin at one place the longer one holds.
    std::stable_sort(added_.begin(), added_.end(), [](const Added& a, const Added& b) {
        return a.content.size() > b.content.size();
    });
}

void JsonTokenizer::read_change(const Json& normalizer) {
    const std::string type = type_of(normalizer);
    if (type == "Sequence") {
        for (const Json& part : member(normalizer, "normalizers")) {
            read_change(part);
        }
    } else if (type == "Prepend") {
        prepends_space_ = true;
        changes_.emplace_back([before = text_of(member(normalizer, "prepend"))](
                                  const std::string& text, bool) { return before + text; });
    } else if (type == "Replace" && member(member(normalizer, "pattern"), "String").is_string()) {
        const std::string from = text_of(normalizer["pattern"]["String"]);
        require(!from.empty(), name_ + ": a normalizer replaces nothing" + remedy);
        changes_.emplace_back(
            [from, to = text_of(member(normalizer, "content"))](const std::string& text, bool) {
                return replaced(text, from, to);
            });
    } else if (!type.empty()) {
        refuse("the normalizer " + type);
    }
}

void JsonTokenizer::read_cut(const Json& pre_tokenizer) {
    const std::string type = type_of(pre_tokenizer);
    if (type == "Sequence") {
        for (const Json& part : member(pre_tokenizer, "pretokenizers")) {
            read_cut(part);
        }
    } else if (type == "Split") {
        const std::string pattern = text_of(member(member(pre_tokenizer, "pattern"), "Regex"));
        if (pattern.empty() || text_of(member(pre_tokenizer, "behavior")) != "Isolated" ||
            is_true(pre_tokenizer, "invert", false)) {
            refuse("the pre-tokenizer " + describe(pre_tokenizer));
        }
        cuts_.emplace_back(pattern, name_);
    } else if (type == "ByteLevel") {
        read_byte_level(pre_tokenizer);
    } else if (type == "Metaspace") {
        read_metaspace(pre_tokenizer);
    } else if (!type.empty()) {
        refuse("the pre-tokenizer " + type);
    }
}

void JsonTokenizer::read_byte_level(const Json& byte_level) {
    is_byte_level_ = true;
    if (is_true(byte_level, "add_prefix_space", true)) {
        if (!cuts_.empty()) {
            refuse("a pre-tokenizer ByteLevel with add_prefix_space behind another");
        }
        prepends_space_ = true;
        changes_.emplace_back([](const std::string& text, bool) {
            return text.starts_with(' ') ? text : " " + text;
        });
    }
    if (is_true(byte_level, "use_regex", true)) {
        cuts_.emplace_back(gpt2_words, name_);
    }
}

void JsonTokenizer::read_metaspace(const Json& metaspace) {
    const bool old = is_true(metaspace, "add_prefix_space", true);
    const std::string scheme = member(metaspace, "prepend_scheme").is_string()
                                   ? text_of(metaspace["prepend_scheme"])
                                   : (old ? "always" : "never");
    if (text_of(member(metaspace, "replacement")) != metaspace_mark) {
        refuse("the pre-tokenizer " + describe(metaspace));
    }
    prepends_space_ = scheme != "never";
    changes_.emplace_back([scheme](std::string text, bool is_first) {
        text = replaced(text, " ", metaspace_mark);
        const bool is_prepended = scheme == "always" || (scheme == "first" && is_first);
        return is_prepended && !text.starts_with(metaspace_mark) ? metaspace_mark + text : text;
    });
    if (is_true(metaspace, "split", true)) {
        cuts_.emplace_back(metaspace_mark + "[^" + metaspace_mark + "]*", name_);
    }
}

// Symbols of single bytes: all that there is at first, or what unknown characters fall back to.
void JsonTokenizer::find_bytes() {
    for (int byte = 0; byte < 256; ++byte) {
        auto& symbol = bytes_[static_cast<std::size_t>(byte)];
        symbol = id_of(is_byte_level_ ? byte_alphabet()[static_cast<std::size_t>(byte)]
                                      : byte_token(byte));
        require(!is_byte_level_ || symbol != none,
                name_ + ": byte " + std::to_string(byte) + " is not in vocab" + remedy);
    }
}

std::vector<std::int32_t> JsonTokenizer::encode(std::string_view text) const {
    std::vector<std::int32_t> ids;
    std::size_t done = 0;
    while (done < text.size()) {
        std::size_t begin = std::string_view::npos;
        const Added* first = nullptr;
        for (const Added& added : added_) {
            const std::size_t at = text.find(added.content, done);
            if (at < begin) {
                begin = at;
                first = &added;
            }
        }
        const std::size_t end = std::min(begin, text.size());
        encode_between(text.substr(done, end - done), done == 0, ids);
        if (first == nullptr) {
            return ids;
        }
        ids.push_back(first->id);
        done = begin + first->content.size();
    }
    return ids;
}

void JsonTokenizer::encode_between(std::string_view text, bool is_first,
                                   std::vector<std::int32_t>& ids) const {
    if (text.empty()) {
        return;
    }
    std::string changed(text);
    for (const Change& change : changes_) {
        changed = change(std::move(changed), is_first);
    }
    std::vector<std::string_view> words = {changed};
    for (const TextSplitter& cut : cuts_) {
        std::vector<std::string_view> shorter;
        for (const std::string_view word : words) {
            const auto parts = cut.split(word);
            shorter.insert(shorter.end(), parts.begin(), parts.end());
        }
        words = std::move(shorter);
    }
    for (const std::string_view word : words) {
        encode_word(word, ids);
    }
}

void JsonTokenizer::encode_word(std::string_view word, std::vector<std::int32_t>& ids) const {
    if (takes_whole_words_) {
        const std::int32_t whole =
            id_of(is_byte_level_ ? in_byte_alphabet(word) : std::string(word));
        if (whole != none) {
            ids.push_back(whole);
            return;
        }
    }
    auto symbols = symbols_of(word);
    bpe_->join(symbols);
    ids.insert(ids.end(), symbols.begin(), symbols.end());
}

std::vector<std::int32_t> JsonTokenizer::symbols_of(std::string_view word) const {
    std::vector<std::int32_t> symbols;
    const auto symbol_of_byte = [&](char byte) { return bytes_[static_cast<unsigned char>(byte)]; };
    for (std::size_t i = 0; i < word.size();) {
        const std::size_t size = is_byte_level_ ? 1 : utf8_size(word.substr(i));
        const std::string_view character = word.substr(i, size);
        i += size;
        const std::int32_t whole =
            is_byte_level_ ? symbol_of_byte(character[0]) : id_of(std::string(character));
        if (whole != none) {
            symbols.push_back(whole);
        } else if (std::all_of(character.begin(), character.end(),
                               [&](char byte) { return symbol_of_byte(byte) != none; })) {
            std::transform(character.begin(), character.end(), std::back_inserter(symbols),
                           symbol_of_byte);
        } else if (unknown_ != none &&
                   !(fuses_unknown_ && !symbols.empty() && symbols.back() == unknown_)) {
            symbols.push_back(unknown_);
        }
    }
    return symbols;
}

std::string JsonTokenizer::decode(std::span<const std::int32_t> ids) const {
    std::string text;
    for (const std::int32_t id : ids) {
        const std::string& token = tokens_[static_cast<std::size_t>(id)];
        if (is_special_[static_cast<std::size_t>(id)]) {
            continue;
        }
        const auto byte = std::find(bytes_.begin(), bytes_.end(), id);
        const bool is_byte = byte != bytes_.end() && !is_byte_level_;
        text += is_byte          ? std::string(1, static_cast<char>(byte - bytes_.begin()))
                : is_byte_level_ ? from_byte_alphabet(token)
                                 : replaced(token, metaspace_mark, " ");
    }
    return prepends_space_ && text.starts_with(' ') ? text.substr(1) : text;
}

}  // namespace longlora
