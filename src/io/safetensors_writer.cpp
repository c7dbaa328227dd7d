#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <fstream>
#include <set>
#include <system_error>

#include "core/error.hpp"
#include "io/durable.hpp"
#include "io/float16.hpp"
#include "io/json.hpp"
#include "io/safetensors.hpp"

namespace longlora {
namespace {

void check_tensor(const TensorToWrite& tensor, const std::string& path) {
    Index size = 1;
    for (const Index length : tensor.shape) {
        size *= length;
    }
    ensure(static_cast<std::size_t>(size) == tensor.values.size(),
           "cannot write " + path + ": tensor '" + tensor.name + "' of shape " +
               format_shape(tensor.shape) + " was given " + std::to_string(tensor.values.size()) +
               " values");
    ensure(tensor.dtype == "F32" || tensor.dtype == "F16" || tensor.dtype == "BF16",
           "cannot write " + path + ": tensor '" + tensor.name + "' would have type " +
               tensor.dtype + ", but only F32, F16 and BF16 are written");
}

std::string header_of(std::span<const TensorToWrite> tensors,
                      const std::map<std::string, std::string>& metadata, const std::string& path) {
    nlohmann::ordered_json header;
    header["__metadata__"] = metadata;
    std::set<std::string> names = {"__metadata__"};
    std::size_t offset = 0;
    for (const auto& tensor : tensors) {
        check_tensor(tensor, path);
        ensure(names.insert(tensor.name).second,
               "cannot write " + path + ": two tensors are called '" + tensor.name + "'");
        const std::size_t end = offset + tensor.values.size() * (tensor.dtype == "F32" ? 4 : 2);
        header[tensor.name] = {
            {"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {offset, end}}};
        offset = end;
    }
    std::string text = header.dump();
    text.resize((text.size() + 7) / 8 * 8, ' ');  // tensors start aligned
    return text;
}

void write_bytes(std::ofstream& file, const void* data, std::size_t size) {
    file.write(static_cast<const char*>(data), static_cast<std::streamsize>(size));
}

void write_values(std::ofstream& file, const TensorToWrite& tensor) {
    if (tensor.dtype == "F32") {
        write_bytes(file, tensor.values.data(), tensor.values.size_bytes());
        return;
    }
    const auto to_bits = tensor.dtype == "F16" ? f16_from_float : bf16_from_float;
    constexpr std::size_t block = 1U << 16U;  // values converted at a time
    std::vector<std::uint16_t> bits;
    for (std::size_t begin = 0; begin < tensor.values.size(); begin += block) {
        const auto values =
            tensor.values.subspan(begin, std::min(block, tensor.values.size() - begin));
        bits.resize(values.size());
        std::ranges::transform(values, bits.begin(), to_bits);
        write_bytes(file, bits.data(), bits.size() * sizeof bits[0]);
    }
}

}  // namespace

void write_safetensors(const std::filesystem::path& path, std::span<const TensorToWrite> tensors,
                       const std::map<std::string, std::string>& metadata) {
    const std::string header = header_of(tensors, metadata, path.string());
    UnfinishedFile unfinished(path.string());
    std::ofstream file(unfinished.path(), std::ios::binary | std::ios::trunc);
    ensure(file.is_open(),
           "cannot create " + unfinished.path() + ": " + std::generic_category().message(errno));
    const std::uint64_t length = header.size();  // little endian, as every machine this runs on
    write_bytes(file, &length, sizeof length);
    write_bytes(file, header.data(), header.size());
    for (const auto& tensor : tensors) {
        write_values(file, tensor);
    }
    file.close();
    ensure(!file.fail(), "cannot write " + unfinished.path() + ": " +
                             std::generic_category().message(errno) +
                             "; check the free space and quota there");
    unfinished.publish();
}

}  // namespace longlora
