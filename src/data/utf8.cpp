#include "data/utf8.hpp"

#include <algorithm>

namespace longlora {

std::size_t utf8_length(std::string_view text, std::size_t at) {
    const auto byte = [&](std::size_t i) -> unsigned {
        return at + i < text.size() ? static_cast<unsigned char>(text[at + i]) : 0U;
    };
    const auto continues = [&](std::size_t i, unsigned low = 0x80, unsigned high = 0xbf) {
        return low <= byte(i) && byte(i) <= high;
    };
    const unsigned first = byte(0);
    if (first < 0x80) {
        return 1;
    }
    if (0xc2 <= first && first <= 0xdf) {
        return continues(1) ? 2 : 0;
    }
    if (0xe0 <= first && first <= 0xef) {
        const unsigned low = first == 0xe0 ? 0xa0 : 0x80;   // no overlong forms
        const unsigned high = first == 0xed ? 0x9f : 0xbf;  // no surrogates
        return continues(1, low, high) && continues(2) ? 3 : 0;
    }
    if (0xf0 <= first && first <= 0xf4) {
        const unsigned low = first == 0xf0 ? 0x90 : 0x80;
        const unsigned high = first == 0xf4 ? 0x8f : 0xbf;  // up to U+10FFFF
        return continues(1, low, high) && continues(2) && continues(3) ? 4 : 0;
    }
    return 0;
}

std::size_t utf8_size(std::string_view text) {
    return std::max<std::size_t>(1, utf8_length(text, 0));
}

}  // namespace longlora
