#pragma once

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/view.hpp"
#include "io/durable.hpp"
#include "io/mapped_file.hpp"
#include "io/tensor_shape.hpp"

// The safetensors format: 8 bytes length (little endian), a JSON header of that length, then the
// tensors, row-major and little endian, without gaps.
namespace longlora {

struct StoredTensor {
    std::string dtype;  // as in the file: "F32", "BF16", "I64", ...
    std::vector<Index> shape;
    std::span<const std::byte> bytes;  // not necessarily aligned

    Index size() const;  // elements
    bool is_readable() const { return dtype == "F32" || dtype == "F16" || dtype == "BF16"; }
};

std::string format_shape(std::span<const Index> shape);  // "[32000, 4096]"

class Safetensors {
public:
    // Both verify the whole header, so that no access through this object leaves the file; a
    // damaged file is an Error that names it and the tensor.
    explicit Safetensors(const std::filesystem::path& path);
    // `bytes` must outlive the object; `name` stands in messages.
    Safetensors(std::span<const std::byte> bytes, std::string name);

    const std::string& name() const { return name_; }
    const std::map<std::string, StoredTensor>& tensors() const { return tensors_; }
    const std::map<std::string, std::string>& metadata() const { return metadata_; }
    bool has(const std::string& tensor) const { return tensors_.contains(tensor); }
    const StoredTensor& at(const std::string& tensor) const;  // Error when there is none

    // Elements [begin, end) of the flattened tensor as float; out.size() must be their number.
    void read_floats(const std::string& tensor, Range elements, std::span<float> out) const;

    // What keeps the file's tensor from being read as `expected` (absent, another shape or type), as
    // a phrase for messages; empty when nothing does.
    std::string fault(const TensorShape& expected) const;
    // Rows [begin, end) into out[rows.size() * row_size()]; a fault is an Error.
    void read_rows(const TensorShape& expected, Range rows, std::span<float> out) const;

private:
    void parse(std::span<const std::byte> file);

    std::string name_;
    std::optional<MappedFile> mapped_;
    std::map<std::string, StoredTensor> tensors_;
    std::map<std::string, std::string> metadata_;
};

struct TensorEntry {
    std::string name;
    std::vector<Index> shape;
    std::string dtype = "F32";  // or F16, BF16: rounded to nearest even

    Index bytes() const;
};

// Writes tensors one after another, each in pieces of any size, so that none has to be in memory
// whole. path.tmp becomes `path` at the end, which is never half a file. Error (exit 1) when the disk
// refuses, exit 2 for a number that the type cannot hold.
class SafetensorsWriter {
public:
    using Metadata = std::map<std::string, std::string>;
    SafetensorsWriter(const std::filesystem::path& path, std::vector<TensorEntry> tensors,
                      const Metadata& metadata = {{"format", "pt"}});

    void append(std::span<const float> values);  // the next elements, in the order of the entries
    void publish();                              // after the last element

private:
    void append_to(const TensorEntry& tensor, std::span<const float> values);
    void write_bytes(const void* data, std::size_t size);
    void check_disk();

    std::vector<TensorEntry> tensors_;
    UnfinishedFile unfinished_;
    std::ofstream file_;
    std::size_t current_ = 0;  // tensor
    Index written_ = 0;        // elements of it
};

struct TensorToWrite {
    std::string name;
    std::vector<Index> shape;
    std::string dtype = "F32";
    std::span<const float> values;
};

// All at once, in the order given.
void write_safetensors(const std::filesystem::path& path, std::span<const TensorToWrite> tensors,
                       const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

}  // namespace longlora
