#include "data/byte_alphabet.hpp"

#include <map>

#include "data/utf8.hpp"

namespace longlora {
namespace {

bool is_printable(unsigned byte) {
    return (byte > 0x20 && byte < 0x7F) || (byte > 0xA0 && byte != 0xAD);
}

// Of a code point below U+0800.
std::string utf8(unsigned code) {
    if (code < 0x80) {
        return {static_cast<char>(code)};
    }
    return {static_cast<char>(0xC0U | code >> 6U), static_cast<char>(0x80U | (code & 0x3FU))};
}

std::array<std::string, 256> make_alphabet() {
    std::array<std::string, 256> characters;
    unsigned next = 0x100;
    for (unsigned byte = 0; byte < 256; ++byte) {
        characters[byte] = utf8(is_printable(byte) ? byte : next++);
    }
    return characters;
}

}  // namespace

const std::array<std::string, 256>& byte_alphabet() {
    static const std::array<std::string, 256> alphabet = make_alphabet();
    return alphabet;
}

std::string in_byte_alphabet(std::string_view bytes) {
    std::string text;
    for (const char byte : bytes) {
        text += byte_alphabet()[static_cast<unsigned char>(byte)];
    }
    return text;
}

std::string from_byte_alphabet(std::string_view text) {
    static const std::map<std::string, char, std::less<>> bytes = [] {
        std::map<std::string, char, std::less<>> found;
        for (std::size_t byte = 0; byte < 256; ++byte) {
            found[byte_alphabet()[byte]] = static_cast<char>(byte);
        }
        return found;
    }();
    std::string result;
    while (!text.empty()) {
        const std::string_view character = text.substr(0, utf8_size(text));
        const auto byte = bytes.find(character);
        result += byte == bytes.end() ? std::string(character) : std::string(1, byte->second);
        text.remove_prefix(character.size());
    }
    return result;
}

}  // namespace longlora
