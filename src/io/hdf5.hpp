#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "core/view.hpp"

// HDF5's C interface as values that close themselves; every failure is an Error that names the file
// and HDF5's own innermost reason, and nothing is printed. hdf5.h stays inside src/io/hdf5*.cpp.
namespace longlora {

using Attribute = std::variant<std::int64_t, std::uint64_t, double, std::string>;
using Attributes = std::map<std::string, Attribute>;

// Who opens the file: this process alone, this process while others may read along (start_growing),
// or every rank of the world together (MPI-IO). With all_ranks, creating, writing and closing are
// collective: every rank calls them alike.
enum class Access { serial, growing, all_ranks };

enum class Hdf5Type { float32, float64, int32, int64, uint16, uint32, uint64, text };

template <class T>
constexpr Hdf5Type hdf5_type() {
    if constexpr (std::is_same_v<T, float>) {
        return Hdf5Type::float32;
    } else if constexpr (std::is_same_v<T, double>) {
        return Hdf5Type::float64;
    } else if constexpr (std::is_same_v<T, std::int32_t>) {
        return Hdf5Type::int32;
    } else if constexpr (std::is_same_v<T, std::int64_t>) {
        return Hdf5Type::int64;
    } else if constexpr (std::is_same_v<T, std::uint16_t>) {
        return Hdf5Type::uint16;
    } else if constexpr (std::is_same_v<T, std::uint32_t>) {
        return Hdf5Type::uint32;
    } else {
        static_assert(std::is_same_v<T, std::uint64_t>, "no HDF5 type is declared for this type");
        return Hdf5Type::uint64;
    }
}

// Owner of one HDF5 identifier of any kind.
class Hdf5Handle {
public:
    explicit Hdf5Handle(std::int64_t id, Access access = Access::serial)
        : id_(id), access_(access) {}
    // Closing a file of all ranks is collective. A rank that unwinds leaves it open: the others
    // may never get there, and an error in such a file ends the program.
    ~Hdf5Handle();
    Hdf5Handle(Hdf5Handle&& other) noexcept
        : id_(std::exchange(other.id_, -1)), access_(other.access_) {}
    Hdf5Handle& operator=(Hdf5Handle&& other) noexcept {
        std::swap(id_, other.id_);
        std::swap(access_, other.access_);
        return *this;
    }
    Hdf5Handle(const Hdf5Handle&) = delete;
    Hdf5Handle& operator=(const Hdf5Handle&) = delete;

    std::int64_t id() const { return id_; }
    bool is_open() const { return id_ >= 0; }
    bool close();  // false when HDF5 reports a failure (a full disk shows here at the latest)

private:
    std::int64_t id_;
    Access access_;
};

// What files and datasets share: a name for messages, and attributes.
class Hdf5Object {
public:
    const std::string& label() const { return label_; }

    // Strings have a fixed length: SWMR readers cannot follow variable-length ones.
    void write_attribute(const std::string& name, const Attribute& value);
    void write_attributes(const Attributes& attributes);
    bool has_attribute(const std::string& name) const;
    Attribute attribute(const std::string& name) const;
    Attributes attributes() const;  // scalars only; arrays and compounds of others are left out

protected:
    Hdf5Object(Hdf5Handle handle, std::string label)
        : handle_(std::move(handle)), label_(std::move(label)) {}

    Hdf5Handle handle_;
    std::string label_;
};

class Hdf5Dataset : public Hdf5Object {
public:
    Hdf5Dataset(Hdf5Handle handle, std::string label, Access access);

    Hdf5Type type() const;
    std::vector<Index> shape() const;  // empty for a scalar
    Index size() const;                // elements

    // `elements` is a range of the flat, row-major order; a rank with nothing passes an empty one.
    template <class T>
    void write(Range elements, std::span<const T> values) {
        write_elements(elements, values.data(), values.size(), hdf5_type<T>());
    }
    template <class T>
    void read(Range elements, std::span<T> values) const {
        read_elements(elements, values.data(), values.size(), hdf5_type<T>());
    }
    template <class T>
    std::vector<T> read_all() const {
        std::vector<T> values(static_cast<std::size_t>(size()));
        read(Range{0, size()}, std::span<T>(values));
        return values;
    }
    std::vector<std::string> read_all_text() const;

    // For 1-D datasets that were created with `.is_extensible`.
    template <class T>
    void append(std::span<const T> values) {
        const Index old = size();
        const Index grown = old + static_cast<Index>(values.size());
        resize(grown);
        write(Range{old, grown}, values);
    }
    void append_text(std::span<const std::string> values);  // cut to the dataset's text size
    void resize(Index size);
    void flush();

private:
    void write_elements(Range elements, const void* data, std::size_t size, Hdf5Type type);
    void read_elements(Range elements, void* data, std::size_t size, Hdf5Type type) const;
    bool takes_part(Range elements, std::size_t values) const;
    std::size_t text_size() const;

    Access access_;
};

// How a dataset is stored. An empty shape is a scalar; chunk 0 leaves it contiguous.
struct Hdf5Layout {
    Hdf5Type type = Hdf5Type::float32;
    std::vector<Index> shape = {};
    Index chunk = 0;             // elements of a chunk, about; always with a fletcher32 checksum
    bool is_extensible = false;  // 1-D, without upper limit
    std::size_t text_size = 0;   // bytes of one string
};

// Latest file format: its metadata carry checksums.
class Hdf5File : public Hdf5Object {
public:
    // Messages speak of `name` where the file is to get another one.
    static Hdf5File create(const std::string& path, Access access = Access::serial,
                           const std::string& name = "");
    static Hdf5File open(const std::string& path, Access access = Access::serial);    // to read
    static Hdf5File extend(const std::string& path, Access access = Access::serial);  // to add to
    // To read while another process appends (single writer, multiple readers), or after it died.
    static Hdf5File open_growing(const std::string& path);

    const std::string& path() const { return path_; }
    // With room for so many members: where it is missing, each one more takes longer than the last.
    void create_group(const std::string& path, std::size_t members = 8);
    Hdf5Dataset create_dataset(const std::string& path, const Hdf5Layout& layout);
    Hdf5Dataset dataset(const std::string& path) const;
    bool contains(const std::string& path) const;  // "/group/name", each part checked
    std::vector<std::string> names(const std::string& group) const;  // of its members, sorted

    void start_growing();  // from here on readers may follow; no dataset or attribute can be made
    void flush();
    void close();  // throws where the destructor must not

private:
    Hdf5File(Hdf5Handle handle, std::string path, Access access)
        : Hdf5Object(std::move(handle), path), path_(std::move(path)), access_(access) {}

    std::string path_;
    Access access_;
};

}  // namespace longlora
