#include <array>

#include "fuzz.hpp"
#include "options/invocation.hpp"

using namespace longlora;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    return fuzz::read_or_refuse(data, size, [](fuzz::Bytes bytes) {
        const std::array words{"longlora_hpc", "--config", "default"};
        parse(static_cast<int>(words.size()), words.data(), fuzz::text_of(bytes));
    });
}
