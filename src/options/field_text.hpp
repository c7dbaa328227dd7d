#pragma once

#include <string>
#include <string_view>
#include <type_traits>

#include "options/choices.hpp"

// Text <-> value for each type that an option may have. Reading takes the whole text or throws
// Error (bad input): where + "train.steps must be a whole number, not '12x'".
namespace longlora {

void read_field(std::string_view text, std::string& field, const std::string& key,
                const std::string& where);
void read_field(std::string_view text, Index& field, const std::string& key,
                const std::string& where);
void read_field(std::string_view text, double& field, const std::string& key,
                const std::string& where);
void read_field(std::string_view text, bool& field, const std::string& key,
                const std::string& where);
template <class Enum>
    requires std::is_enum_v<Enum>
void read_field(std::string_view text, Enum& field, const std::string& key,
                const std::string& where) {
    field = from_text<Enum>(text, key, where);
}

std::string field_text(const std::string& field);
std::string field_text(Index field);
std::string field_text(bool field);    // true, false
std::string field_text(double field);  // the shortest text that reads back as the same number
template <class Enum>
    requires std::is_enum_v<Enum>
std::string field_text(Enum field) {
    return to_text(field);
}

}  // namespace longlora
