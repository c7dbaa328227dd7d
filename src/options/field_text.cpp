#include "options/field_text.hpp"

#include <array>
#include <charconv>
#include <cmath>

#include "core/error.hpp"

namespace longlora {
namespace {

template <class Number>
bool reads_whole(std::string_view text, Number& number) {
    const auto [end, fault] = std::from_chars(text.data(), text.data() + text.size(), number);
    return fault == std::errc() && end == text.data() + text.size();
}

}  // namespace

void read_field(std::string_view text, std::string& field, const std::string& /*key*/,
                const std::string& /*where*/) {
    field = text;
}

void read_field(std::string_view text, Index& field, const std::string& key,
                const std::string& where) {
    require(reads_whole(text, field),
            where + key + " must be a whole number, not '" + std::string(text) + "'");
}

void read_field(std::string_view text, double& field, const std::string& key,
                const std::string& where) {
    require(reads_whole(text, field) && std::isfinite(field),
            where + key + " must be a number, not '" + std::string(text) + "'");
}

void read_field(std::string_view text, bool& field, const std::string& key,
                const std::string& where) {
    require(text == "true" || text == "false",
            where + key + " must be true or false, not '" + std::string(text) + "'");
    field = text == "true";
}

std::string field_text(const std::string& field) { return field; }

std::string field_text(bool field) { return field ? "true" : "false"; }

std::string field_text(Index field) { return std::to_string(field); }

std::string field_text(double field) {
    std::array<char, 32> text{};
    const auto result = std::to_chars(text.data(), text.data() + text.size(), field);
    return {text.data(), result.ptr};
}

}  // namespace longlora
