#include "io/mapped_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "core/error.hpp"
#include "core/system_reason.hpp"

namespace longlora {
namespace {

std::string reason() { return system_reason(errno); }

// Closed on every way out; the mapping itself needs it no longer than mmap().
class Descriptor {
public:
    explicit Descriptor(int descriptor) : descriptor_(descriptor) {}
    ~Descriptor() {
        if (descriptor_ >= 0) {
            close(descriptor_);
        }
    }
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    int value() const { return descriptor_; }

private:
    int descriptor_;
};

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path) {
    // O_NONBLOCK: a named pipe is refused below instead of waited for
    const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    require(file.value() >= 0, "cannot open " + path.string() + ": " + reason());
    struct stat status {};
    require(fstat(file.value(), &status) == 0, "cannot read " + path.string() + ": " + reason());
    require(S_ISREG(status.st_mode),
            "cannot read " + path.string() +
                ": it is not a regular file; give the path of a file here");
    if (status.st_size == 0) {
        return;
    }
    const auto size = static_cast<std::size_t>(status.st_size);
    void* const data = mmap(nullptr, size, PROT_READ, MAP_SHARED, file.value(), 0);
    require(data != MAP_FAILED, "cannot map " + path.string() + " into memory: " + reason());
    bytes_ = {static_cast<const std::byte*>(data), size};
}

MappedFile::~MappedFile() {
    if (!bytes_.empty()) {
        munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
    }
}

MappedFile::MappedFile(MappedFile&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
    std::swap(bytes_, other.bytes_);
    return *this;
}

std::string_view MappedFile::text() const {
    return {reinterpret_cast<const char*>(bytes_.data()), bytes_.size()};
}

}  // namespace longlora
