#include "io/safetensors.hpp"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <utility>

#include "core/error.hpp"
#include "io/float16.hpp"
#include "io/json.hpp"

namespace longlora {
namespace {

constexpr std::size_t length_bytes = 8;
constexpr std::uint64_t longest_header = 100'000'000;  // the format's own limit

// Bytes of an element; 0 for a type that is not known here (its size cannot be checked).
Index element_bytes(const std::string& dtype) {
    static const std::map<std::string, Index> sizes = {
        {"F64", 8}, {"I64", 8}, {"U64", 8},  {"F32", 4},     {"I32", 4},
        {"U32", 4}, {"F16", 2}, {"BF16", 2}, {"I16", 2},     {"U16", 2},
        {"I8", 1},  {"U8", 1},  {"BOOL", 1}, {"F8_E4M3", 1}, {"F8_E5M2", 1}};
    const auto found = sizes.find(dtype);
    return found == sizes.end() ? 0 : found->second;
}

std::uint64_t little_endian(std::span<const std::byte> bytes) {
    std::uint64_t value = 0;
    for (std::size_t i = bytes.size(); i-- > 0;) {
        value = value << 8U | std::to_integer<std::uint64_t>(bytes[i]);
    }
    return value;
}

Index non_negative(const Json& value, const std::string& where) {
    require(value.is_number_unsigned() && value.get<std::uint64_t>() <= INT64_MAX,
            where + " holds " + describe(value) + " where a number from 0 to 2^63 - 1 must stand");
    return value.get<Index>();
}

// A shape or a pair of offsets. `where` names file and tensor.
std::vector<Index> index_list(const Json& entry, const std::string& key, const std::string& where) {
    const auto found = entry.find(key);
    require(found != entry.end() && found->is_array(), where + " has no list \"" + key + "\"");
    const std::string list = where + ": \"" + key + "\"";
    std::vector<Index> values;
    for (const auto& value : *found) {
        values.push_back(non_negative(value, list));
    }
    return values;
}

// shape[0] * shape[1] * ... * bytes, or -1 when that is beyond 2^63 - 1.
Index checked_bytes(std::span<const Index> shape, Index bytes) {
    if (std::ranges::find(shape, 0) != shape.end()) {
        return 0;
    }
    for (const Index size : shape) {
        if (__builtin_mul_overflow(bytes, size, &bytes)) {
            return -1;
        }
    }
    return bytes;
}

StoredTensor parse_tensor(const Json& entry, std::span<const std::byte> data,
                          const std::string& where) {
    require(entry.is_object(),
            where + " is described by " + describe(entry) + ", not by an object");
    StoredTensor tensor;
    tensor.dtype = json_string(entry, "dtype", where, "");
    tensor.shape = index_list(entry, "shape", where);
    const auto offsets = index_list(entry, "data_offsets", where);
    require(offsets.size() == 2 && offsets[0] <= offsets[1], where + " has unusable data_offsets");
    require(static_cast<std::size_t>(offsets[1]) <= data.size(),
            where + " ends at byte " + std::to_string(offsets[1]) +
                " of the data, but the file has " + std::to_string(data.size()) +
                ": it was cut short; copy or download it again");
    const Index stored = offsets[1] - offsets[0];
    const Index unit = element_bytes(tensor.dtype);
    const Index needed = checked_bytes(tensor.shape, std::max<Index>(unit, 1));
    require(needed >= 0, where + " has an impossible shape " + format_shape(tensor.shape));
    require(unit == 0 || needed == stored,
            where + ": " + tensor.dtype + " " + format_shape(tensor.shape) + " takes " +
                std::to_string(needed) + " bytes, but its data_offsets span " +
                std::to_string(stored));
    tensor.bytes =
        data.subspan(static_cast<std::size_t>(offsets[0]), static_cast<std::size_t>(stored));
    return tensor;
}

std::string coverage_fault(const std::string& file, const std::string& tensor,
                           const std::string& fault) {
    return file + ": the bytes of tensor '" + tensor + "'" + fault +
           "; the file is damaged, write it again";
}

// The format wants the data covered exactly: overlaps would alias weights, gaps mean a wrong header.
void check_coverage(const std::map<std::string, StoredTensor>& tensors,
                    std::span<const std::byte> data, const std::string& file) {
    std::vector<std::tuple<const std::byte*, std::size_t, std::string>> order;
    for (const auto& [name, tensor] : tensors) {
        order.emplace_back(tensor.bytes.data(), tensor.bytes.size(), name);
    }
    std::ranges::sort(order);
    const std::byte* end = data.data();
    for (const auto& [begin, size, name] : order) {
        const std::string fault =
            begin < end ? " overlap those of another" : " do not follow those of another directly";
        require(begin == end, coverage_fault(file, name, fault));
        end = begin + size;
    }
    require(end == data.data() + data.size(),
            file + " has " + std::to_string(data.data() + data.size() - end) +
                " bytes behind its last tensor; the file is damaged, write it again");
}

std::uint16_t stored_16(const std::byte* bytes, std::size_t i) {
    std::uint16_t bits = 0;
    std::memcpy(&bits, bytes + 2 * i, sizeof bits);  // tensors need not be aligned
    return bits;
}

void convert(const std::string& dtype, const std::byte* bytes, std::span<float> out) {
    if (dtype == "F32") {
        std::memcpy(out.data(), bytes, out.size_bytes());
    } else if (dtype == "BF16") {
        for (std::size_t i = 0; i < out.size(); ++i) {
            out[i] = float_from_bf16(stored_16(bytes, i));
        }
    } else {
        for (std::size_t i = 0; i < out.size(); ++i) {
            out[i] = float_from_f16(stored_16(bytes, i));
        }
    }
}

// A number is finite unless all bits of its exponent are set. Without a branch, so that it is
// quicker than reading the numbers was.
bool are_finite(std::span<const float> values) {
    constexpr std::uint32_t exponent = 0x7F800000U;
    bool is_broken = false;
    for (const float value : values) {
        is_broken |= (std::bit_cast<std::uint32_t>(value) & exponent) == exponent;
    }
    return !is_broken;
}

}  // namespace

Index StoredTensor::size() const {
    return checked_bytes(shape,
                         1);  // cannot overflow: parse_tensor() has compared it with the file
}

std::string format_shape(std::span<const Index> shape) {
    std::string text = "[";
    for (const Index size : shape) {
        text += (text.size() == 1 ? "" : ", ") + std::to_string(size);
    }
    return text + "]";
}

Safetensors::Safetensors(const std::filesystem::path& path)
    : name_(path.string()), mapped_(std::in_place, path) {
    parse(mapped_->bytes());
}

Safetensors::Safetensors(std::span<const std::byte> bytes, std::string name)
    : name_(std::move(name)) {
    parse(bytes);
}

void Safetensors::parse(std::span<const std::byte> file) {
    const std::string refused = name_ + " is not a safetensors file, or damaged: ";
    constexpr auto remedy = "; copy or download it again";
    require(file.size() >= length_bytes,
            refused + "it has " + std::to_string(file.size()) + " bytes" + remedy);
    const std::uint64_t length = little_endian(file.first(length_bytes));
    require(length <= longest_header && length <= file.size() - length_bytes,
            refused + "a header of " + std::to_string(length) + " bytes in a file of " +
                std::to_string(file.size()) + remedy);
    const auto header_bytes = file.subspan(length_bytes, length);
    const std::string_view text(reinterpret_cast<const char*>(header_bytes.data()), length);
    const Json header = parse_json_object(text, "the header of " + name_);
    const auto data = file.subspan(length_bytes + length);
    for (const auto& [key, entry] : header.items()) {
        if (key != "__metadata__") {
            tensors_.emplace(key, parse_tensor(entry, data, name_ + ": tensor '" + key + "'"));
        } else if (entry.is_object()) {
            for (const auto& item : entry.items()) {
                metadata_.emplace(item.key(), json_string(entry, item.key(), name_, ""));
            }
        }
    }
    check_coverage(tensors_, data, name_);
}

const StoredTensor& Safetensors::at(const std::string& tensor) const {
    const auto found = tensors_.find(tensor);
    require(found != tensors_.end(), name_ + " has no tensor '" + tensor + "'");
    return found->second;
}

void Safetensors::read_floats(const std::string& tensor, Range elements,
                              std::span<float> out) const {
    const StoredTensor& stored = at(tensor);
    require(stored.is_readable(), name_ + ": tensor '" + tensor + "' has type " + stored.dtype +
                                      ", but only F32, F16 and BF16 are read; convert the model");
    require(0 <= elements.begin && elements.end <= stored.size() &&
                static_cast<std::size_t>(elements.size()) == out.size(),
            name_ + ": elements " + std::to_string(elements.begin) + " to " +
                std::to_string(elements.end) + " of tensor '" + tensor + "', which has " +
                std::to_string(stored.size()) + ", cannot be read into " +
                std::to_string(out.size()) + " floats");
    if (!out.empty()) {
        const Index offset = elements.begin * element_bytes(stored.dtype);
        convert(stored.dtype, stored.bytes.data() + offset, out);
        require(are_finite(out), name_ + ": tensor '" + tensor +
                                     "' holds a NaN or an infinity; copy or download the file "
                                     "again, or use another model");
    }
}

std::string Safetensors::fault(const TensorShape& expected) const {
    if (!has(expected.name)) {
        return expected.name + " is missing";
    }
    std::vector<Index> shape = {expected.rows};
    if (expected.columns != 0) {
        shape.push_back(expected.columns);
    }
    const StoredTensor& stored = at(expected.name);
    if (stored.shape != shape) {
        return expected.name + " is " + format_shape(stored.shape) + " instead of " +
               format_shape(shape);
    }
    if (!stored.is_readable()) {
        return expected.name + " has type " + stored.dtype + " (read are F32, F16 and BF16)";
    }
    return "";
}

void Safetensors::read_rows(const TensorShape& expected, Range rows, std::span<float> out) const {
    const std::string found = fault(expected);
    require(found.empty(), name_ + ": " + found);
    require(0 <= rows.begin && rows.begin <= rows.end && rows.end <= expected.rows,
            name_ + ": " + expected.name + " has no rows " + std::to_string(rows.begin) + " to " +
                std::to_string(rows.end));
    const Index width = expected.row_size();
    read_floats(expected.name, {rows.begin * width, rows.end * width}, out);
}

}  // namespace longlora
