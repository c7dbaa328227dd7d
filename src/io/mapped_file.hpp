#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace longlora {

// A file mapped read-only: ranks of a node share its pages, and only what is touched is read.
// Input files must not be cut short while a run reads them (the kernel answers with SIGBUS).
class MappedFile {
public:
    // Throws Error when `path` is missing, a folder or unreadable.
    explicit MappedFile(const std::filesystem::path& path);
    ~MappedFile();
    MappedFile(MappedFile&& other) noexcept;
    MappedFile& operator=(MappedFile&& other) noexcept;
    MappedFile(const MappedFile&) = delete;
    MappedFile& operator=(const MappedFile&) = delete;

    // Valid as long as some object holds the mapping (moving keeps it); empty for an empty file.
    std::span<const std::byte> bytes() const { return bytes_; }
    std::string_view text() const;

private:
    std::span<const std::byte> bytes_;
};

}  // namespace longlora
