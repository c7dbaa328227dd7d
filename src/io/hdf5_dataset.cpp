#include <algorithm>
#include <array>
#include <cstddef>

#include "core/error.hpp"
#include "io/hdf5.hpp"
#include "io/hdf5_handles.hpp"

namespace longlora {
namespace {

std::vector<hsize_t> shape_of(hid_t space) {
    std::vector<hsize_t> shape(
        static_cast<std::size_t>(std::max(H5Sget_simple_extent_ndims(space), 0)));
    H5Sget_simple_extent_dims(space, shape.data(), nullptr);
    return shape;
}

void add_rectangle(hid_t space, std::vector<hsize_t> start, std::vector<hsize_t> count) {
    H5Sselect_hyperslab(space, H5S_SELECT_OR, start.data(), nullptr, count.data(), nullptr);
}

// A flat range of a matrix is up to three rectangles: the end of a row, full rows, the start of a row.
void select_rectangles(hid_t space, hsize_t columns, hsize_t begin, hsize_t end) {
    const hsize_t last = end / columns;
    hsize_t first = begin / columns;
    if (first == last) {
        add_rectangle(space, {first, begin % columns}, {1, end - begin});
        return;
    }
    if (begin % columns != 0) {
        add_rectangle(space, {first, begin % columns}, {1, columns - begin % columns});
        ++first;
    }
    if (first < last) {
        add_rectangle(space, {first, 0}, {last - first, columns});
    }
    if (end % columns != 0) {
        add_rectangle(space, {last, 0}, {1, end % columns});
    }
}

void select_elements(hid_t space, Range elements) {
    H5Sselect_none(space);
    if (elements.empty()) {
        return;
    }
    const std::vector<hsize_t> shape = shape_of(space);
    const auto begin = static_cast<hsize_t>(elements.begin);
    const auto end = static_cast<hsize_t>(elements.end);
    ensure(shape.size() <= 2, "datasets of more than two dimensions are not used here");
    if (shape.empty()) {
        H5Sselect_all(space);
    } else if (shape.size() == 1) {
        add_rectangle(space, {begin}, {end - begin});
    } else {
        select_rectangles(space, shape[1], begin, end);
    }
}

// One transfer between a dataset and a contiguous array.
struct Transfer {
    Hdf5Handle file_space;
    Hdf5Handle memory_space;
    Hdf5Handle properties;
    hid_t type;           // of the array
    std::ptrdiff_t lead;  // bytes from the begin of the memory space to the array
};

// HDF5 is fast where both selections have one shape, and else goes element by element. So an array
// for a part of a matrix counts as whole rows of which only that part is selected.
// HDF5 touches what is selected, the array alone.
Transfer make_transfer(hid_t dataset, Range elements, Access access, hid_t type) {
    Hdf5Handle file_space(H5Dget_space(dataset));
    const std::vector<hsize_t> shape = shape_of(file_space.id());
    const Index columns = shape.size() == 2 && !elements.empty() ? static_cast<Index>(shape[1]) : 1;
    const Index first = elements.begin / columns;
    const auto rows = static_cast<hsize_t>((elements.end + columns - 1) / columns - first);
    const std::array<hsize_t, 2> extent{std::max<hsize_t>(rows, 1), static_cast<hsize_t>(columns)};
    Hdf5Handle memory_space(H5Screate_simple(shape.size() == 2 ? 2 : 1, extent.data(), nullptr));
    select_elements(file_space.id(), elements);
    const Index lead = first * columns;
    select_elements(memory_space.id(), {elements.begin - lead, elements.end - lead});
    Hdf5Handle properties(H5Pcreate(H5P_DATASET_XFER));
    if (access == Access::all_ranks) {
        H5Pset_dxpl_mpio(properties.id(), H5FD_MPIO_COLLECTIVE);
    }
    return {std::move(file_space), std::move(memory_space), std::move(properties), type,
            (elements.begin - lead) * static_cast<std::ptrdiff_t>(H5Tget_size(type))};
}

}  // namespace

Hdf5Dataset::Hdf5Dataset(Hdf5Handle handle, std::string label, Access access)
    : Hdf5Object(std::move(handle), std::move(label)), access_(access) {}

Hdf5Type Hdf5Dataset::type() const {
    const Hdf5Handle type(H5Dget_type(handle_.id()));
    const H5T_class_t kind = H5Tget_class(type.id());
    const std::size_t size = H5Tget_size(type.id());
    const bool is_signed = kind == H5T_INTEGER && H5Tget_sign(type.id()) == H5T_SGN_2;
    if (kind == H5T_STRING) {
        return Hdf5Type::text;
    }
    if (kind == H5T_FLOAT && (size == 4 || size == 8)) {
        return size == 4 ? Hdf5Type::float32 : Hdf5Type::float64;
    }
    if (kind == H5T_INTEGER && is_signed && (size == 4 || size == 8)) {
        return size == 4 ? Hdf5Type::int32 : Hdf5Type::int64;
    }
    require(kind == H5T_INTEGER && !is_signed && (size == 2 || size == 4 || size == 8),
            label_ + " has a type that is not used here");
    return size == 2 ? Hdf5Type::uint16 : size == 4 ? Hdf5Type::uint32 : Hdf5Type::uint64;
}

std::vector<Index> Hdf5Dataset::shape() const {
    const Hdf5Handle space(hdf5_check(H5Dget_space(handle_.id()),
                                      "cannot read the shape of " + label_, ExitCode::bad_input));
    const std::vector<hsize_t> shape = shape_of(space.id());
    return {shape.begin(), shape.end()};
}

Index Hdf5Dataset::size() const {
    Index product = 1;
    for (const Index extent : shape()) {
        product *= extent;
    }
    return product;
}

// A rank with nothing takes part in a collective, except where there is nothing for anyone.
bool Hdf5Dataset::takes_part(Range elements, std::size_t values) const {
    ensure(static_cast<std::size_t>(elements.size()) == values,
           label_ + ": range and values differ in size");
    return !elements.empty() || (access_ == Access::all_ranks && size() > 0);
}

void Hdf5Dataset::write_elements(Range elements, const void* data, std::size_t size,
                                 Hdf5Type type) {
    if (!takes_part(elements, size)) {
        return;
    }
    const Transfer transfer =
        make_transfer(handle_.id(), elements, access_, hdf5_memory_type(type));
    hdf5_check(
        H5Dwrite(handle_.id(), transfer.type, transfer.memory_space.id(), transfer.file_space.id(),
                 transfer.properties.id(), static_cast<const std::byte*>(data) - transfer.lead),
        "cannot write " + label_, ExitCode::failure);
}

void Hdf5Dataset::read_elements(Range elements, void* data, std::size_t size, Hdf5Type type) const {
    if (!takes_part(elements, size)) {
        return;
    }
    const Transfer transfer =
        make_transfer(handle_.id(), elements, access_, hdf5_memory_type(type));
    hdf5_check(
        H5Dread(handle_.id(), transfer.type, transfer.memory_space.id(), transfer.file_space.id(),
                transfer.properties.id(), static_cast<std::byte*>(data) - transfer.lead),
        "cannot read " + label_, ExitCode::bad_input);
}

std::size_t Hdf5Dataset::text_size() const {
    const Hdf5Handle type(H5Dget_type(handle_.id()));
    require(H5Tget_class(type.id()) == H5T_STRING && H5Tis_variable_str(type.id()) == 0,
            label_ + " does not hold texts of fixed length");
    return H5Tget_size(type.id());
}

std::vector<std::string> Hdf5Dataset::read_all_text() const {
    const std::size_t width = text_size();
    const auto count = static_cast<std::size_t>(size());
    std::string bytes(width * count, '\0');
    if (count > 0) {
        const Hdf5Handle type = hdf5_text_type(width);
        hdf5_check(H5Dread(handle_.id(), type.id(), H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes.data()),
                   "cannot read " + label_, ExitCode::bad_input);
    }
    std::vector<std::string> texts;
    for (std::size_t i = 0; i < count; ++i) {
        const std::string text = bytes.substr(i * width, width);
        texts.push_back(text.substr(0, text.find('\0')));
    }
    return texts;
}

void Hdf5Dataset::append_text(std::span<const std::string> values) {
    const std::size_t width = text_size();
    std::string bytes;
    for (std::string text : values) {
        text.resize(width, '\0');
        bytes += text;
    }
    const Index old = size();
    const Range added{old, old + static_cast<Index>(values.size())};
    if (added.empty()) {
        return;
    }
    resize(added.end);
    const Hdf5Handle type = hdf5_text_type(width);
    const Transfer transfer = make_transfer(handle_.id(), added, access_, type.id());
    hdf5_check(H5Dwrite(handle_.id(), transfer.type, transfer.memory_space.id(),
                        transfer.file_space.id(), transfer.properties.id(), bytes.data()),
               "cannot write " + label_, ExitCode::failure);
}

void Hdf5Dataset::resize(Index size) {
    const auto extent = static_cast<hsize_t>(size);
    hdf5_check(H5Dset_extent(handle_.id(), &extent), "cannot extend " + label_, ExitCode::failure);
}

void Hdf5Dataset::flush() {
    hdf5_check(H5Dflush(handle_.id()), "cannot write " + label_, ExitCode::failure);
}

}  // namespace longlora
