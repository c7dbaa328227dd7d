#include "io/digest.hpp"

#include <xxhash.h>

namespace longlora {

std::uint64_t digest_of(std::span<const std::byte> bytes) {
    return XXH3_64bits(bytes.data(), bytes.size());
}

std::uint64_t digest_of(std::string_view text) { return XXH3_64bits(text.data(), text.size()); }

std::string format_digest(std::uint64_t digest) {
    std::string text(16, '0');
    for (auto digit = text.rbegin(); digit != text.rend(); ++digit, digest >>= 4U) {
        *digit = "0123456789abcdef"[digest & 15U];
    }
    return text;
}

}  // namespace longlora
