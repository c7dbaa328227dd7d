#pragma once

#include <array>
#include <string>
#include <string_view>

namespace longlora {

// The 256 printable characters, in UTF-8, that stand for bytes in the vocabularies of byte-level BPE: those
// that are printable in Latin-1 for themselves, U+0100 and on for the others in their order.
//                                   (Radford et al. 2019; github.com/openai/gpt-2, bytes_to_unicode)
const std::array<std::string, 256>& byte_alphabet();
std::string in_byte_alphabet(std::string_view bytes);
// Characters that are not of the alphabet stay as they are.
std::string from_byte_alphabet(std::string_view text);

}  // namespace longlora
