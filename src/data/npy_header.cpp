#include "data/npy_header.hpp"

#include <charconv>
#include <cstdint>

#include "core/error.hpp"

namespace longlora {
namespace {

std::uint64_t little_endian(std::string_view bytes) {
    std::uint64_t value = 0;
    for (auto byte = bytes.rbegin(); byte != bytes.rend(); ++byte) {
        value = value << 8U | static_cast<unsigned char>(*byte);
    }
    return value;
}

// What follows 'key': in the header, a Python dictionary such as
// {'descr': '<i4', 'fortran_order': False, 'shape': (12,), }
std::string_view value_of(std::string_view header, std::string_view key) {
    for (const char quote : {'\'', '"'}) {
        const std::string quoted = quote + std::string(key) + quote;
        if (const auto at = header.find(quoted); at != std::string_view::npos) {
            const auto colon = header.find(':', at + quoted.size());
            const auto begin =
                header.find_first_not_of(' ', colon == header.npos ? colon : colon + 1);
            return begin == header.npos ? std::string_view() : header.substr(begin);
        }
    }
    return {};
}

// The size in "(12,)"; negative when it has another form.
Index size_in(std::string_view shape) {
    const auto begin = shape.find_first_not_of("( ");
    Index size = -1;
    if (!shape.starts_with('(') || begin == shape.npos) {
        return -1;
    }
    const auto [rest, error] =
        std::from_chars(shape.data() + begin, shape.data() + shape.size(), size);
    const std::string_view tail(rest, static_cast<std::size_t>(shape.data() + shape.size() - rest));
    const auto comma = tail.find_first_not_of(' ');
    const auto closing = comma == tail.npos ? comma : tail.find_first_not_of(' ', comma + 1);
    const bool is_one =
        error == std::errc() && closing != tail.npos && tail[comma] == ',' && tail[closing] == ')';
    return is_one ? size : -1;
}

}  // namespace

NpyHeader read_npy_header(const std::string& path, std::string_view bytes) {
    constexpr std::size_t fixed = 8;  // magic and version
    const bool is_long = bytes.size() > fixed && bytes[6] != 1;
    const std::size_t width = is_long ? 4 : 2;  // of the header's own length
    require(bytes.size() >= fixed + width && bytes.starts_with(npy_magic) && bytes[6] >= 1 &&
                bytes[6] <= 3,
            path + " is not a .npy file of version 1 to 3");
    const std::uint64_t length = little_endian(bytes.substr(fixed, width));
    const std::size_t offset = fixed + width + length;
    require(offset <= bytes.size(), path + " ends inside its header: copy it anew");
    const std::string_view header = bytes.substr(fixed + width, length);
    const std::string_view type = value_of(header, "descr");
    require(type.size() > 4 && type.substr(1).starts_with("<i4"),
            path + " must hold int32 (descr '<i4'): convert it with array.astype('<i4')");
    const Index size = size_in(value_of(header, "shape"));
    require(size >= 0, path + " must be one-dimensional: convert it with array.reshape(-1)");
    require((bytes.size() - offset) / sizeof(std::int32_t) >= static_cast<std::size_t>(size),
            path + " ends before its " + std::to_string(size) + " tokens: copy it anew");
    return {offset, size};
}

}  // namespace longlora
