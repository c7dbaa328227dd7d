#include "data/tokenizer.hpp"
#include "fuzz.hpp"

using namespace longlora;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    return fuzz::read_or_refuse(data, size, [](fuzz::Bytes bytes) {
        const Tokenizer tokenizer = Tokenizer::sentencepiece(fuzz::text_of(bytes), "fuzz");
        tokenizer.decode(tokenizer.encode("Once upon a time.\n\x01\xc3\xbc"));
    });
}
