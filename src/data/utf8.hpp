#pragma once

#include <cstddef>
#include <string_view>

namespace longlora {

// Length of the valid UTF-8 sequence at `at`, or 0 (Unicode 15, table 3-7).
std::size_t utf8_length(std::string_view text, std::size_t at);

// Bytes of the character that `text` begins with; 1 for what is no UTF-8. `text` is not empty.
std::size_t utf8_size(std::string_view text);

}  // namespace longlora
