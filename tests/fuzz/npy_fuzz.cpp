#include <cstdlib>

#include "data/npy_header.hpp"
#include "fuzz.hpp"

using namespace longlora;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    return fuzz::read_or_refuse(data, size, [](fuzz::Bytes bytes) {
        const NpyHeader header = read_npy_header("fuzz", fuzz::text_of(bytes));
        if (header.offset + sizeof(std::int32_t) * static_cast<std::size_t>(header.size) >
            bytes.size()) {
            std::abort();
        }
    });
}
