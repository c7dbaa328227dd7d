#include "core/error.hpp"
#include "io/hdf5.hpp"
#include "io/hdf5_handles.hpp"

namespace longlora {
namespace {

herr_t keep_name(hid_t, const char* name, const H5A_info_t*, void* names) {
    static_cast<std::vector<std::string>*>(names)->emplace_back(name);
    return 0;
}

std::string read_text(hid_t attribute, hid_t stored, const std::string& what) {
    if (H5Tis_variable_str(stored) > 0) {  // not written here, but by h5py
        char* text = nullptr;
        const Hdf5Handle type(H5Tcopy(stored));
        hdf5_check(H5Aread(attribute, type.id(), &text), what, ExitCode::bad_input);
        std::string copy = text == nullptr ? "" : text;
        H5free_memory(text);
        return copy;
    }
    std::string text(H5Tget_size(stored), '\0');
    hdf5_check(H5Aread(attribute, stored, text.data()), what, ExitCode::bad_input);
    return text.substr(0, text.find('\0'));
}

template <class T>
T read_number(hid_t attribute, const std::string& what) {
    T value{};
    hdf5_check(H5Aread(attribute, hdf5_memory_type(hdf5_type<T>()), &value), what,
               ExitCode::bad_input);
    return value;
}

bool is_readable(hid_t attribute) {
    const Hdf5Handle space(H5Aget_space(attribute));
    const Hdf5Handle type(H5Aget_type(attribute));
    const H5T_class_t kind = H5Tget_class(type.id());
    return H5Sget_simple_extent_npoints(space.id()) == 1 &&
           (kind == H5T_INTEGER || kind == H5T_FLOAT || kind == H5T_STRING);
}

Attribute read_value(hid_t attribute, const std::string& what) {
    const Hdf5Handle type(H5Aget_type(attribute));
    switch (H5Tget_class(type.id())) {
        case H5T_STRING:
            return read_text(attribute, type.id(), what);
        case H5T_FLOAT:
            return read_number<double>(attribute, what);
        default:
            if (H5Tget_sign(type.id()) == H5T_SGN_NONE) {
                return read_number<std::uint64_t>(attribute, what);
            }
            return read_number<std::int64_t>(attribute, what);
    }
}

}  // namespace

void Hdf5Object::write_attribute(const std::string& name, const Attribute& value) {
    const std::string what = "cannot write the attribute " + name + " of " + label_;
    if (has_attribute(name)) {
        hdf5_check(H5Adelete(handle_.id(), name.c_str()), what, ExitCode::failure);
    }
    const auto write = [&](const Hdf5Handle& type, const void* data) {
        const Hdf5Handle space(H5Screate(H5S_SCALAR));
        const Hdf5Handle attribute(hdf5_check(
            H5Acreate2(handle_.id(), name.c_str(), type.id(), space.id(), H5P_DEFAULT, H5P_DEFAULT),
            what, ExitCode::failure));
        hdf5_check(H5Awrite(attribute.id(), type.id(), data), what, ExitCode::failure);
    };
    std::visit(
        [&]<class T>(const T& held) {
            if constexpr (std::is_same_v<T, std::string>) {
                write(hdf5_text_type(held.size()), held.c_str());
            } else {
                write(Hdf5Handle(H5Tcopy(hdf5_memory_type(hdf5_type<T>()))), &held);
            }
        },
        value);
}

void Hdf5Object::write_attributes(const Attributes& attributes) {
    for (const auto& [name, value] : attributes) {
        write_attribute(name, value);
    }
}

bool Hdf5Object::has_attribute(const std::string& name) const {
    return H5Aexists(handle_.id(), name.c_str()) > 0;
}

Attribute Hdf5Object::attribute(const std::string& name) const {
    const std::string what = "cannot read the attribute " + name + " of " + label_;
    require(has_attribute(name), label_ + " has no attribute " + name);
    const Hdf5Handle attribute(
        hdf5_check(H5Aopen(handle_.id(), name.c_str(), H5P_DEFAULT), what, ExitCode::bad_input));
    require(is_readable(attribute.id()), what + ": it is neither a number nor a text");
    return read_value(attribute.id(), what);
}

Attributes Hdf5Object::attributes() const {
    const std::string what = "cannot read the attributes of " + label_;
    std::vector<std::string> names;
    hdf5_check(H5Aiterate2(handle_.id(), H5_INDEX_NAME, H5_ITER_INC, nullptr, keep_name, &names),
               what, ExitCode::bad_input);
    Attributes all;
    for (const std::string& name : names) {
        const Hdf5Handle attribute(hdf5_check(H5Aopen(handle_.id(), name.c_str(), H5P_DEFAULT),
                                              what, ExitCode::bad_input));
        if (is_readable(attribute.id())) {
            all[name] = read_value(attribute.id(), what);
        }
    }
    return all;
}

}  // namespace longlora
