#include "commands/embedded.hpp"

#include <cstdint>

// The assembler copies each file between two labels and writes down how long it is.
asm(R"(
    .pushsection .rodata.longlora_embedded,"a",@progbits
    .balign 64
longlora_default_ini:
    .incbin ")" LONGLORA_CONFIG_DIR R"(/default.ini"
longlora_default_ini_end:
    .balign 64
longlora_model_config:
    .incbin ")" LONGLORA_CONFIG_DIR R"(/demonstration/config.json"
longlora_model_config_end:
    .balign 64
longlora_model_weights:
    .incbin ")" LONGLORA_CONFIG_DIR R"(/demonstration/model.safetensors"
longlora_model_weights_end:
    .balign 8
longlora_default_ini_size:
    .quad longlora_default_ini_end - longlora_default_ini
longlora_model_config_size:
    .quad longlora_model_config_end - longlora_model_config
longlora_model_weights_size:
    .quad longlora_model_weights_end - longlora_model_weights
    .popsection
)");

extern "C" {
extern const char longlora_default_ini[];
extern const char longlora_model_config[];
extern const std::byte longlora_model_weights[];
extern const std::uint64_t longlora_default_ini_size;
extern const std::uint64_t longlora_model_config_size;
extern const std::uint64_t longlora_model_weights_size;
}

namespace longlora {

std::string_view embedded_default_ini() {
    return {longlora_default_ini, longlora_default_ini_size};
}

std::string_view embedded_model_config() {
    return {longlora_model_config, longlora_model_config_size};
}

std::span<const std::byte> embedded_model_weights() {
    return {longlora_model_weights, longlora_model_weights_size};
}

}  // namespace longlora
