#pragma once

#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

namespace longlora {

using Json = nlohmann::json;

// One JSON object, or an Error that names `name` (a file, or file and line) and the place of the
// fault. A key that stands twice in one object is a fault too: readers disagree on which one holds.
Json parse_json_object(std::string_view text, const std::string& name);

// Members of `object`, or `otherwise` where it is absent or null; another type is an Error.
std::int64_t json_integer(const Json& object, const std::string& key, const std::string& name,
                          std::int64_t otherwise);
double json_number(const Json& object, const std::string& key, const std::string& name,
                   double otherwise);
bool json_bool(const Json& object, const std::string& key, const std::string& name, bool otherwise);
std::string json_string(const Json& object, const std::string& key, const std::string& name,
                        const std::string& otherwise);

// The value as a short text for messages.
std::string describe(const Json& value);

}  // namespace longlora
