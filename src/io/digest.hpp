#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace longlora {

// XXH3, 64 bits: notices damage and mix-ups, is no protection against intent.
std::uint64_t digest_of(std::span<const std::byte> bytes);
std::uint64_t digest_of(std::string_view text);

// 16 hexadecimal digits.
std::string format_digest(std::uint64_t digest);

}  // namespace longlora
