#include "io/hdf5.hpp"

#include <algorithm>
#include <exception>
#include <string_view>

#include <mpi.h>

#include "core/error.hpp"
#include "core/system_reason.hpp"
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
constexpr unsigned most_links = 65535;

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

// For groups and the root: links and attributes stay in the object's header, however many they are.
// It is read only after its checksum. The other storage (a heap and a B-tree, beyond eight) is not so
// well guarded: HDF5 1.10 crashes on a changed byte in it.
Hdf5Handle compact_properties(hid_t kind) {
    Hdf5Handle list(H5Pcreate(kind));
    H5Pset_link_phase_change(list.id(), most_links, 0);
    H5Pset_attr_phase_change(list.id(), most_links, 0);
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
        return with_remedy(reason.substr(begin, reason.find('\'', begin) - begin));
    }
    const bool is_of_mpi =
        reason.find("write failed") != std::string::npos;  // which keeps the cause
    return reason + (is_of_mpi ? "; check the free space and the quota there" : "");
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

Hdf5File Hdf5File::create(const std::string& path, Access access, const std::string& name) {
    const Hdf5Handle properties = access_properties(access);
    const Hdf5Handle root = compact_properties(H5P_FILE_CREATE);
    const hid_t id = hdf5_check(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, root.id(), properties.id()),
                                "cannot create " + path, ExitCode::failure);
    return {Hdf5Handle(id, access), name.empty() ? path : name, access};
}

Hdf5File Hdf5File::open(const std::string& path, Access access) {
    const Hdf5Handle properties = access_properties(access);
    const hid_t id = H5Fopen(path.c_str(), H5F_ACC_RDONLY, properties.id());
    if (id < 0) {
        const std::string reason = hdf5_reason();
        const bool has_remedy = reason.find("; ") != std::string::npos;
        throw Error("cannot read " + path + ": " + reason +
                        (has_remedy ? "" : "; it is damaged, or no HDF5 file: copy it again"),
                    ExitCode::bad_input);
    }
    return {Hdf5Handle(id, access), path, access};
}

Hdf5File Hdf5File::extend(const std::string& path, Access access) {
    const Hdf5Handle properties = access_properties(access);
    const hid_t id = hdf5_check(H5Fopen(path.c_str(), H5F_ACC_RDWR, properties.id()),
                                "cannot open " + path, ExitCode::failure);
    return {Hdf5Handle(id, access), path, access};
}

Hdf5File Hdf5File::open_growing(const std::string& path) {
    const Hdf5Handle properties = access_properties(Access::serial);
    // HDF5 doubles its pause with each attempt, from 1 ns, and its own 100 attempts never end where the
    // checksum is wrong for good: these end after a few milliseconds.
    H5Pset_metadata_read_attempts(properties.id(), 20);
    const hid_t id = H5Fopen(path.c_str(), H5F_ACC_RDONLY | H5F_ACC_SWMR_READ, properties.id());
    if (id < 0) {
        return open(path);  // other tools (h5repack) may have written it in an older format
    }
    return {Hdf5Handle(id), path, Access::serial};
}

void Hdf5File::create_group(const std::string& path, std::size_t members) {
    const Hdf5Handle properties = compact_properties(H5P_GROUP_CREATE);
    constexpr unsigned name_length = 64;  // as those of tensors, about
    H5Pset_est_link_info(properties.id(),
                         static_cast<unsigned>(std::min<std::size_t>(members, most_links)),
                         name_length);
    const Hdf5Handle group(hdf5_check(H5Gcreate2(handle_.id(), path.c_str(), H5P_DEFAULT,
                                                 properties.id(), H5P_DEFAULT),
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
