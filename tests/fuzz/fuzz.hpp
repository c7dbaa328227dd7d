#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "core/error.hpp"

// What every target does: reads the bytes; an Error for the user is an answer, all else is a find.
namespace longlora::fuzz {

using Bytes = std::span<const std::byte>;

inline std::string_view text_of(Bytes bytes) {
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

template <class Read>
int read_or_refuse(const std::uint8_t* data, std::size_t size, const Read& read) {
    try {
        read(std::as_bytes(std::span(data, size)));
    } catch (const Error& error) {
        if (error.code() != ExitCode::bad_input) {
            throw;
        }
    }
    return 0;
}

}  // namespace longlora::fuzz
