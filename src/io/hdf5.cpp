#include "io/hdf5.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <exception>
#include <string_view>

#include <mpi.h>

#include "core/error.hpp"
#include "io/hdf5_handles.hpp"

namespace longlora {
namespace {

// Before MPI starts, so that HDF5 neither hooks into MPI_Finalize nor into exit: both would crash on
// a file whose close failed for lack of space. All handles are closed by their owners.
[[maybe_unused]] const bool is_set_up = [] {
    H5dont_atexit();
    H5open();
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);  // no stack on the terminal: Error tells it
    return true;
}();

constexpr hsize_t page_size = 4096;

Hdf5Handle access_properties(Access access) {
    Hdf5Handle list(H5Pcreate(H5P_FILE_ACCESS));
    H5Pset_libver_bounds(list.id(), H5F_LIBVER_LATEST, H5F_LIBVER_LATEST);
#if H5_VERSION_GE(1, 10, 7)
    H5Pset_file_locking(list.id(), true, true);  // go on where the file system has no locks
#endif
    if (access == Access::growing) {
        // A chunk inside one page is written whole or not at all, also by a process that is killed.
        H5Pset_alignment(list.id(), page_size / 2, page_size);
    }
    if (access == Access::all_ranks) {
        H5Pset_fapl_mpio(list.id(), MPI_COMM_WORLD, MPI_INFO_NULL);
        H5Pset_coll_metadata_write(list.id(), true);
    }
    return list;
}

// Cuts an extent into the fewest equal parts of at most `limit`: the last chunk is stored in full.
hsize_t equal_part(hsize_t extent, hsize_t limit) {
    const hsize_t parts = (extent + limit - 1) / limit;
    return (extent + parts - 1) / parts;
}

std::vector<hsize_t> chunk_shape(const Hdf5Layout& layout) {
    const auto chunk = static_cast<hsize_t>(layout.chunk);
    if (layout.is_extensible) {
        return {chunk};
    }
    const auto columns = static_cast<hsize_t>(layout.shape.back());
    const hsize_t width = equal_part(columns, chunk);
    if (layout.shape.size() == 1) {
        return {width};
    }
    const auto rows = static_cast<hsize_t>(layout.shape.front());
    return {equal_part(rows, std::max<hsize_t>(chunk / width, 1)), width};
}

Hdf5Handle creation_properties(const Hdf5Layout& layout) {
    Hdf5Handle list(H5Pcreate(H5P_DATASET_CREATE));
    const bool is_empty =
        std::find(layout.shape.begin(), layout.shape.end(), 0) != layout.shape.end();
    if (layout.chunk > 0 && !layout.shape.empty() && (layout.is_extensible || !is_empty)) {
        const std::vector<hsize_t> chunk = chunk_shape(layout);
        H5Pset_chunk(list.id(), static_cast<int>(chunk.size()), chunk.data());
        H5Pset_fletcher32(list.id());
        if (!layout.is_extensible) {
            H5Pset_fill_time(list.id(), H5D_FILL_TIME_NEVER);  // each element gets written
        }
    }
    return list;
}

Hdf5Handle dataspace(const Hdf5Layout& layout) {
    if (layout.shape.empty()) {
        return Hdf5Handle(H5Screate(H5S_SCALAR));
    }
    const std::vector<hsize_t> shape(layout.shape.begin(), layout.shape.end());
    const hsize_t unlimited = H5S_UNLIMITED;
    return Hdf5Handle(H5Screate_simple(static_cast<int>(shape.size()), shape.data(),
                                       layout.is_extensible ? &unlimited : nullptr));
}

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

herr_t keep_name(hid_t, const char* name, const H5L_info_t*, void* names) {
    static_cast<std::vector<std::string>*>(names)->emplace_back(name);
    return 0;
}

herr_t keep_innermost(unsigned depth, const H5E_error2_t* entry, void* reason) {
    if (depth == 0 && entry->desc != nullptr) {
        *static_cast<std::string*>(reason) = entry->desc;
    }
    return 0;
}

}  // namespace

std::string hdf5_reason() {
    std::string reason = "no reason given";
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_innermost, &reason);
    constexpr std::string_view mark = "error message = '";  // of the system, among other things
    if (const auto at = reason.find(mark); at != std::string::npos) {
        const auto begin = at + mark.size();
        return reason.substr(begin, reason.find('\'', begin) - begin);
    }
    return reason;
}

hid_t hdf5_memory_type(Hdf5Type type) {
    switch (type) {
        case Hdf5Type::float32:
            return H5T_NATIVE_FLOAT;
        case Hdf5Type::float64:
            return H5T_NATIVE_DOUBLE;
        case Hdf5Type::int32:
            return H5T_NATIVE_INT32;
        case Hdf5Type::int64:
            return H5T_NATIVE_INT64;
        case Hdf5Type::uint16:
            return H5T_NATIVE_UINT16;
        case Hdf5Type::uint32:
            return H5T_NATIVE_UINT32;
        case Hdf5Type::uint64:
            return H5T_NATIVE_UINT64;
        case Hdf5Type::text:
            break;
    }
    throw Error("texts have no HDF5 type without a size", ExitCode::failure);
}

Hdf5Handle hdf5_text_type(std::size_t size) {
    Hdf5Handle type(H5Tcopy(H5T_C_S1));
    H5Tset_size(type.id(), std::max<std::size_t>(size, 1));
    H5Tset_strpad(type.id(), H5T_STR_NULLPAD);
    H5Tset_cset(type.id(), H5T_CSET_UTF8);
    return type;
}

Hdf5Handle::~Hdf5Handle() {
    const bool is_unwinding = access_ == Access::all_ranks && std::uncaught_exceptions() > 0;
    if (id_ >= 0 && !is_unwinding) {
        H5Idec_ref(id_);
    }
}

bool Hdf5Handle::close() { return id_ < 0 || H5Idec_ref(std::exchange(id_, -1)) >= 0; }

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

namespace {

// One transfer between a dataset and a contiguous array.
struct Transfer {
    Hdf5Handle file_space;
    Hdf5Handle memory_space;
    Hdf5Handle properties;
    std::size_t lead;  // elements of the memory space before the array's first
};

// HDF5 is fast where both selections have one shape, and else goes element by element. So an array
// for a part of a matrix counts as whole rows of which only that part is selected.
Transfer make_transfer(hid_t dataset, Range elements, Access access) {
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
    return {std::move(file_space), std::move(memory_space), std::move(properties),
            static_cast<std::size_t>(elements.begin - lead)};
}

// Where the memory space begins. HDF5 touches what is selected, which is the array.
std::uintptr_t memory_begin(const void* data, std::size_t lead, hid_t type) {
    return reinterpret_cast<std::uintptr_t>(data) - lead * H5Tget_size(type);
}

}  // namespace

// A rank with nothing takes part in a collective, except where there is nothing for anyone.
bool Hdf5Dataset::is_nothing_to_do(Range elements) const {
    return elements.empty() && (access_ != Access::all_ranks || size() == 0);
}

void Hdf5Dataset::write_elements(Range elements, const void* data, std::size_t size,
                                 Hdf5Type type) {
    ensure(static_cast<std::size_t>(elements.size()) == size,
           label_ + ": range and values differ in size");
    if (is_nothing_to_do(elements)) {
        return;
    }
    const Transfer transfer = make_transfer(handle_.id(), elements, access_);
    const hid_t memory_type = hdf5_memory_type(type);
    const auto begin = memory_begin(data, transfer.lead, memory_type);
    hdf5_check(
        H5Dwrite(handle_.id(), memory_type, transfer.memory_space.id(), transfer.file_space.id(),
                 transfer.properties.id(), reinterpret_cast<const void*>(begin)),
        "cannot write " + label_, ExitCode::failure);
}

void Hdf5Dataset::read_elements(Range elements, void* data, std::size_t size, Hdf5Type type) const {
    ensure(static_cast<std::size_t>(elements.size()) == size,
           label_ + ": range and values differ in size");
    if (is_nothing_to_do(elements)) {
        return;
    }
    const Transfer transfer = make_transfer(handle_.id(), elements, access_);
    const hid_t memory_type = hdf5_memory_type(type);
    const auto begin = memory_begin(data, transfer.lead, memory_type);
    hdf5_check(
        H5Dread(handle_.id(), memory_type, transfer.memory_space.id(), transfer.file_space.id(),
                transfer.properties.id(), reinterpret_cast<void*>(begin)),
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
    const Transfer transfer = make_transfer(handle_.id(), added, access_);
    hdf5_check(H5Dwrite(handle_.id(), type.id(), transfer.memory_space.id(),
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

Hdf5File Hdf5File::create(const std::string& path, Access access) {
    const Hdf5Handle properties = access_properties(access);
    const hid_t id =
        hdf5_check(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, properties.id()),
                   "cannot create " + path, ExitCode::failure);
    return {Hdf5Handle(id, access), path, access};
}

Hdf5File Hdf5File::open(const std::string& path, Access access) {
    const Hdf5Handle properties = access_properties(access);
    const hid_t id = hdf5_check(H5Fopen(path.c_str(), H5F_ACC_RDONLY, properties.id()),
                                "cannot read " + path, ExitCode::bad_input);
    return {Hdf5Handle(id, access), path, access};
}

Hdf5File Hdf5File::open_growing(const std::string& path) {
    const Hdf5Handle properties = access_properties(Access::serial);
    const hid_t id = H5Fopen(path.c_str(), H5F_ACC_RDONLY | H5F_ACC_SWMR_READ, properties.id());
    if (id < 0) {
        return open(path);  // other tools (h5repack) may have written it in an older format
    }
    return {Hdf5Handle(id), path, Access::serial};
}

void Hdf5File::create_group(const std::string& path) {
    const Hdf5Handle group(
        hdf5_check(H5Gcreate2(handle_.id(), path.c_str(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT),
                   "cannot create " + path + " in " + path_, ExitCode::failure),
        access_);
}

Hdf5Dataset Hdf5File::create_dataset(const std::string& path, const Hdf5Layout& layout) {
    // The types of this machine: little-endian, as everywhere that CUDA and Open MPI run.
    const Hdf5Handle type = layout.type == Hdf5Type::text
                                ? hdf5_text_type(layout.text_size)
                                : Hdf5Handle(H5Tcopy(hdf5_memory_type(layout.type)));
    const Hdf5Handle space = dataspace(layout);
    const Hdf5Handle properties = creation_properties(layout);
    const hid_t id = H5Dcreate2(handle_.id(), path.c_str(), type.id(), space.id(), H5P_DEFAULT,
                                properties.id(), H5P_DEFAULT);
    hdf5_check(id, "cannot create " + path + " in " + path_, ExitCode::failure);
    return {Hdf5Handle(id, access_), path + " in " + path_, access_};
}

Hdf5Dataset Hdf5File::dataset(const std::string& path) const {
    require(contains(path), path_ + " has no dataset " + path);
    const hid_t id = hdf5_check(H5Dopen2(handle_.id(), path.c_str(), H5P_DEFAULT),
                                "cannot read " + path + " in " + path_, ExitCode::bad_input);
    return {Hdf5Handle(id, access_), path + " in " + path_, access_};
}

bool Hdf5File::contains(const std::string& path) const {
    for (auto slash = path.find('/', 1);; slash = path.find('/', slash + 1)) {
        if (H5Lexists(handle_.id(), path.substr(0, slash).c_str(), H5P_DEFAULT) <= 0) {
            return false;
        }
        if (slash == std::string::npos) {
            return true;
        }
    }
}

std::vector<std::string> Hdf5File::names(const std::string& group) const {
    const Hdf5Handle opened(
        hdf5_check(H5Gopen2(handle_.id(), group.c_str(), H5P_DEFAULT),
                   "cannot read " + group + " in " + path_, ExitCode::bad_input),
        access_);
    std::vector<std::string> names;
    hdf5_check(H5Literate(opened.id(), H5_INDEX_NAME, H5_ITER_INC, nullptr, keep_name, &names),
               "cannot list " + group + " in " + path_, ExitCode::bad_input);
    return names;
}

void Hdf5File::start_growing() {
    ensure(access_ == Access::growing, path_ + " was not created to grow");
    hdf5_check(H5Fstart_swmr_write(handle_.id()), "cannot let readers follow " + path_,
               ExitCode::failure);
}

void Hdf5File::flush() {
    hdf5_check(H5Fflush(handle_.id(), H5F_SCOPE_GLOBAL), "cannot write " + path_,
               ExitCode::failure);
}

void Hdf5File::close() {
    if (!handle_.close()) {
        throw Error("cannot write " + path_ + ": " + hdf5_reason(), ExitCode::failure);
    }
}

}  // namespace longlora
