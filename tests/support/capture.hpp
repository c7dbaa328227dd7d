#pragma once

#include <unistd.h>

#include <array>
#include <string>

#include <boost/test/unit_test.hpp>

namespace longlora::test {

// What `work` writes to file descriptor `file`; at most a pipe's buffer.
template <class Work>
std::string written_by(int file, const Work& work) {
    std::array<int, 2> ends{};
    BOOST_REQUIRE(pipe(ends.data()) == 0);
    const int saved = dup(file);
    dup2(ends[1], file);
    work();
    dup2(saved, file);
    close(saved);
    close(ends[1]);
    std::string text;
    std::array<char, 4096> piece{};
    for (ssize_t size = 0; (size = read(ends[0], piece.data(), piece.size())) > 0;) {
        text.append(piece.data(), static_cast<std::size_t>(size));
    }
    close(ends[0]);
    return text;
}

}  // namespace longlora::test
