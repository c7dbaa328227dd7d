#include "io/json.hpp"

#include <limits>
#include <set>
#include <vector>

#include "core/error.hpp"

namespace longlora {
namespace {

// nlohmann keeps the last of two equal keys without a word, so keys are watched while it parses.
class DuplicateKeys {
public:
    explicit DuplicateKeys(const std::string& name) : name_(name) {}

    bool operator()(int /*depth*/, Json::parse_event_t event, const Json& parsed) {
        if (event == Json::parse_event_t::object_start) {
            open_objects_.emplace_back();
        } else if (event == Json::parse_event_t::object_end) {
            open_objects_.pop_back();
        } else if (event == Json::parse_event_t::key) {
            const auto& key = parsed.get_ref<const std::string&>();
            require(open_objects_.back().insert(key).second,
                    name_ + ": the key \"" + key + "\" stands twice; remove one of them");
        }
        return true;
    }

private:
    const std::string& name_;
    std::vector<std::set<std::string>> open_objects_;
};

// Without nlohmann's own "[json.exception.parse_error.101] ".
std::string cause(const Json::exception& error) {
    const std::string text = error.what();
    const auto end = text.find("] ");
    return end == std::string::npos ? text : text.substr(end + 2);
}

// Nothing where the key is absent or null.
const Json* member(const Json& object, const std::string& key) {
    const auto found = object.find(key);
    return found == object.end() || found->is_null() ? nullptr : &*found;
}

void require_type(bool holds, const Json& value, const std::string& key, const std::string& name,
                  const std::string& type) {
    require(holds, name + ": \"" + key + "\" is " + describe(value) + ", but must be " + type);
}

}  // namespace

Json parse_json_object(std::string_view text, const std::string& name) {
    Json value;
    try {
        DuplicateKeys watch(name);
        value = Json::parse(text.begin(), text.end(), std::ref(watch));
    } catch (const Json::exception& error) {
        require(false, name + " is not valid JSON: " + cause(error) +
                           "; mend it there, or copy the file again");
    }
    require(value.is_object(), name + " must hold one JSON object, not " + describe(value));
    return value;
}

std::int64_t json_integer(const Json& object, const std::string& key, const std::string& name,
                          std::int64_t otherwise) {
    const Json* value = member(object, key);
    if (value == nullptr) {
        return otherwise;
    }
    const bool is_small = !value->is_number_unsigned() ||
                          value->get<std::uint64_t>() <=
                              static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    require_type(value->is_number_integer() && is_small, *value, key, name, "an integer");
    return value->get<std::int64_t>();
}

double json_number(const Json& object, const std::string& key, const std::string& name,
                   double otherwise) {
    const Json* value = member(object, key);
    if (value == nullptr) {
        return otherwise;
    }
    require_type(value->is_number(), *value, key, name, "a number");
    return value->get<double>();
}

bool json_bool(const Json& object, const std::string& key, const std::string& name,
               bool otherwise) {
    const Json* value = member(object, key);
    if (value == nullptr) {
        return otherwise;
    }
    require_type(value->is_boolean(), *value, key, name, "true or false");
    return value->get<bool>();
}

std::string json_string(const Json& object, const std::string& key, const std::string& name,
                        const std::string& otherwise) {
    const Json* value = member(object, key);
    if (value == nullptr) {
        return otherwise;
    }
    require_type(value->is_string(), *value, key, name, "a string");
    return value->get<std::string>();
}

std::string describe(const Json& value) {
    if (value.is_structured()) {  // not dumped: that recurses, and the nesting is the file's
        return value.is_array() ? "a list" : "an object";
    }
    constexpr std::size_t longest = 60;
    std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
    return text.size() <= longest ? text : text.substr(0, longest) + "...";
}

}  // namespace longlora
