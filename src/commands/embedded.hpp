#pragma once

#include <cstddef>
#include <span>
#include <string_view>

namespace longlora {

// Files of config/ that are compiled in, so that the program runs without any.
std::string_view embedded_default_ini();              // default.ini
std::string_view embedded_model_config();             // demonstration/config.json
std::span<const std::byte> embedded_model_weights();  // demonstration/model.safetensors

}  // namespace longlora
