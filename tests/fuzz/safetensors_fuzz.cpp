#include <algorithm>
#include <vector>

#include "fuzz.hpp"
#include "io/safetensors.hpp"

using namespace longlora;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    return fuzz::read_or_refuse(data, size, [](fuzz::Bytes bytes) {
        const Safetensors file(bytes, "fuzz");
        for (const auto& [name, tensor] : file.tensors()) {
            std::vector<float> values(
                static_cast<std::size_t>(tensor.is_readable() ? tensor.size() : 0));
            if (tensor.is_readable()) {
                file.read_floats(name, {0, tensor.size()}, values);
            }
        }
    });
}
