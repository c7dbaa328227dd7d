#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdint>
#include <set>
#include <system_error>

#include "core/error.hpp"
#include "core/text.hpp"
#include "io/float16.hpp"
#include "io/json.hpp"
#include "io/safetensors.hpp"

namespace longlora {
namespace {

constexpr std::size_t block = 1U << 16U;  // values converted at a time

Index elements(const TensorEntry& tensor) {
    Index size = 1;
    for (const Index length : tensor.shape) {
        size *= length;
    }
    return size;
}

std::string header_of(std::span<const TensorEntry> tensors,
                      const SafetensorsWriter::Metadata& metadata, const std::string& path) {
    nlohmann::ordered_json header;
    header["__metadata__"] = metadata;
    std::set<std::string> names = {"__metadata__"};
    Index offset = 0;
    for (const auto& tensor : tensors) {
        ensure(tensor.dtype == "F32" || tensor.dtype == "F16" || tensor.dtype == "BF16",
               "cannot write " + path + ": tensor '" + tensor.name + "' would have type " +
                   tensor.dtype + ", but only F32, F16 and BF16 are written");
        ensure(names.insert(tensor.name).second,
               "cannot write " + path + ": two tensors are called '" + tensor.name + "'");
        const Index end = offset + tensor.bytes();
        header[tensor.name] = {
            {"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {offset, end}}};
        offset = end;
    }
    std::string text = header.dump();
    text.resize((text.size() + 7) / 8 * 8, ' ');  // tensors start aligned
    return text;
}

// A weight that became infinite would make every output NaN, far from here.
void check_range(const TensorEntry& tensor, std::span<const float> values, float most,
                 const std::string& path) {
    const auto lost = std::ranges::find_if(
        values, [&](float value) { return std::isfinite(value) && std::abs(value) >= most; });
    require(lost == values.end(), "cannot write " + path + ": tensor '" + tensor.name + "' holds " +
                                      format_number(lost == values.end() ? 0 : *lost, 9) +
                                      ", which " + tensor.dtype + " cannot; write float32 instead");
}

}  // namespace

Index TensorEntry::bytes() const { return elements(*this) * (dtype == "F32" ? 4 : 2); }

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path,
                                     std::vector<TensorEntry> tensors, const Metadata& metadata)
    : tensors_(std::move(tensors)), unfinished_(path.string()) {
    const std::string header = header_of(tensors_, metadata, path.string());
    file_.open(unfinished_.path(), std::ios::binary | std::ios::trunc);
    ensure(file_.is_open(),
           "cannot create " + unfinished_.path() + ": " + std::generic_category().message(errno));
    const std::uint64_t length = header.size();  // little endian, as every machine this runs on
    write_bytes(&length, sizeof length);
    write_bytes(header.data(), header.size());
}

void SafetensorsWriter::append(std::span<const float> values) {
    while (!values.empty()) {
        ensure(current_ < tensors_.size(), "more values than tensors for " + unfinished_.path());
        const TensorEntry& tensor = tensors_[current_];
        const auto missing = static_cast<std::size_t>(elements(tensor) - written_);
        const auto piece = values.first(std::min(missing, values.size()));
        append_to(tensor, piece);
        written_ += static_cast<Index>(piece.size());
        values = values.subspan(piece.size());
        if (piece.size() == missing) {
            ++current_;
            written_ = 0;
        }
    }
    check_disk();
}

void SafetensorsWriter::append_to(const TensorEntry& tensor, std::span<const float> values) {
    if (tensor.dtype == "F32") {
        write_bytes(values.data(), values.size_bytes());
        return;
    }
    const bool is_half = tensor.dtype == "F16";
    // the least float that is rounded to infinity
    check_range(tensor, values, is_half ? 65520.0F : 0x1.ffp127F, unfinished_.path());
    std::vector<std::uint16_t> bits;
    for (std::size_t begin = 0; begin < values.size(); begin += block) {
        const auto part = values.subspan(begin, std::min(block, values.size() - begin));
        bits.resize(part.size());
        std::ranges::transform(part, bits.begin(), is_half ? f16_from_float : bf16_from_float);
        write_bytes(bits.data(), bits.size() * sizeof bits[0]);
    }
}

void SafetensorsWriter::write_bytes(const void* data, std::size_t size) {
    file_.write(static_cast<const char*>(data), static_cast<std::streamsize>(size));
}

void SafetensorsWriter::check_disk() {
    ensure(!file_.fail(), "cannot write " + unfinished_.path() + ": " +
                              std::generic_category().message(errno) +
                              "; check the free space and quota there");
}

void SafetensorsWriter::publish() {
    while (current_ < tensors_.size() && written_ == 0 && elements(tensors_[current_]) == 0) {
        ++current_;
    }
    ensure(current_ == tensors_.size(),
           "cannot write " + unfinished_.path() + ": " +
               (current_ < tensors_.size() ? "tensor '" + tensors_[current_].name + "' lacks values"
                                           : ""));
    file_.close();
    check_disk();
    unfinished_.publish();
}

void write_safetensors(const std::filesystem::path& path, std::span<const TensorToWrite> tensors,
                       const std::map<std::string, std::string>& metadata) {
    std::vector<TensorEntry> entries;
    for (const TensorToWrite& tensor : tensors) {
        entries.push_back({tensor.name, tensor.shape, tensor.dtype});
        ensure(static_cast<std::size_t>(elements(entries.back())) == tensor.values.size(),
               "cannot write " + path.string() + ": tensor '" + tensor.name + "' of shape " +
                   format_shape(tensor.shape) + " was given " +
                   std::to_string(tensor.values.size()) + " values");
    }
    SafetensorsWriter writer(path, entries, metadata);
    for (const TensorToWrite& tensor : tensors) {
        writer.append(tensor.values);
    }
    writer.publish();
}

}  // namespace longlora
