#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace longlora {

std::string format_bytes(double bytes);      // "1.50 GiB"
std::string format_count(double count);      // "1.05 M"
std::string format_seconds(double seconds);  // "2 h 03 min", "12 s"
std::string format_number(double value,
                          int digits = 4);  // significant digits, no exponent if short
std::vector<std::string> split(std::string_view text,
                               char separator);  // parts trimmed, empty ones left out
std::string join(const std::vector<std::string>& parts, std::string_view separator);
// The candidate with the smallest edit distance to `name`; empty when none is near.
std::string nearest(std::string_view name, const std::vector<std::string>& candidates);

}  // namespace longlora
