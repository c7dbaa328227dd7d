#include "fuzz.hpp"
#include "io/adapter.hpp"
#include "io/llama_config.hpp"

using namespace longlora;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    return fuzz::read_or_refuse(data, size, [](fuzz::Bytes bytes) {
        // The first byte chooses, so that one target serves config.json and adapter_config.json.
        const std::string_view text = fuzz::text_of(bytes);
        if (text.starts_with("a")) {
            parse_adapter_config(text.substr(1), "fuzz");
        } else {
            llama_tensors(parse_llama_config(text, "fuzz"));
        }
    });
}
