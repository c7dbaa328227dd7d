#include "data/text_splitter.hpp"

#include <array>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "core/error.hpp"

namespace longlora {
namespace {

template <auto release>
struct Release {
    template <class T>
    void operator()(T* object) const {
        release(object);
    }
};
using Code = std::unique_ptr<pcre2_code, Release<pcre2_code_free>>;
using Match = std::unique_ptr<pcre2_match_data, Release<pcre2_match_data_free>>;

PCRE2_SPTR units_of(std::string_view text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

std::string reason(int code) {
    std::array<PCRE2_UCHAR, 256> text{};
    pcre2_get_error_message(code, text.data(), text.size());
    return reinterpret_cast<const char*>(text.data());
}

}  // namespace

struct TextSplitter::Pattern {
    std::string name;
    Code code;
};

TextSplitter::TextSplitter(const std::string& pattern, const std::string& name)
    : pattern_(std::make_unique<Pattern>()) {
    int fault = 0;
    std::size_t place = 0;
    pattern_->name = name;
    pattern_->code.reset(pcre2_compile(units_of(pattern), pattern.size(), PCRE2_UTF | PCRE2_UCP,
                                       &fault, &place, nullptr));
    require(pattern_->code != nullptr,
            name + " splits text by a pattern that is not understood, '" + pattern +
                "': " + reason(fault) + "; give the tokenizer that came with the base model");
    pcre2_jit_compile(pattern_->code.get(), PCRE2_JIT_COMPLETE);  // faster where it can be had
}

TextSplitter::~TextSplitter() = default;
TextSplitter::TextSplitter(TextSplitter&&) noexcept = default;
TextSplitter& TextSplitter::operator=(TextSplitter&&) noexcept = default;

std::vector<std::string_view> TextSplitter::split(std::string_view text) const {
    const Match match(pcre2_match_data_create_from_pattern(pattern_->code.get(), nullptr));
    std::vector<std::string_view> pieces;
    std::size_t done = 0;
    std::uint32_t checks = 0;  // the whole text is checked once
    for (std::size_t begin = 0; begin < text.size();) {
        const int found = pcre2_match(pattern_->code.get(), units_of(text), text.size(), begin,
                                      checks | PCRE2_NOTEMPTY, match.get(), nullptr);
        checks = PCRE2_NO_UTF_CHECK;
        if (found == PCRE2_ERROR_NOMATCH) {
            break;
        }
        require(found > 0, "the tokenizer " + pattern_->name +
                               " cannot split a text: " + reason(found) + "; give it as UTF-8");
        const std::size_t* const range = pcre2_get_ovector_pointer(match.get());
        if (done < range[0]) {
            pieces.push_back(text.substr(done, range[0] - done));
        }
        pieces.push_back(text.substr(range[0], range[1] - range[0]));
        done = begin = range[1];
    }
    if (done < text.size()) {
        pieces.push_back(text.substr(done));
    }
    return pieces;
}

}  // namespace longlora
