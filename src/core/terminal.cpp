#include "core/terminal.hpp"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <string_view>

#include "core/error.hpp"

namespace longlora {
namespace {

bool has_drawn = false;  // a drawn line is on the screen

void write_all(int file, std::string_view text) {
    while (!text.empty()) {
        const ssize_t written = ::write(file, text.data(), text.size());
        if (written < 0 && errno != EINTR) {
            return;  // nobody can be told that nobody listens
        }
        text.remove_prefix(static_cast<std::size_t>(std::max<ssize_t>(written, 0)));
    }
}

// Path of the terminal that stdout ends at; empty when it ends elsewhere.
std::string terminal_path() {
    const char* kind = std::getenv("TERM");
    if (isatty(STDOUT_FILENO) == 0 || kind == nullptr || std::string_view(kind) == "dumb") {
        return {};
    }
    const bool has_launcher = std::getenv("OMPI_COMM_WORLD_RANK") != nullptr;
    const std::string link =
        has_launcher ? "/proc/" + std::to_string(getppid()) + "/fd/1" : "/proc/self/fd/1";
    std::array<char, 256> target{};
    const ssize_t size = readlink(link.c_str(), target.data(), target.size() - 1);
    const std::string path(target.data(), static_cast<std::size_t>(std::max<ssize_t>(size, 0)));
    const bool is_device = path.starts_with("/dev/pts/") || path.starts_with("/dev/tty") ||
                           path.starts_with("/dev/console");
    return is_device ? path : std::string();
}

bool is_number(const std::string& cell) {
    const auto first = cell.find_first_not_of("+-.");
    return cell == "-" || (first != std::string::npos &&
                           std::isdigit(static_cast<unsigned char>(cell[first])) != 0);
}

std::string padded(const std::string& cell, std::size_t width, bool to_the_right) {
    const std::string space(width - cell.size(), ' ');
    return to_the_right ? space + cell : cell + space;
}

}  // namespace

void say(const std::string& text) {
    write_all(STDOUT_FILENO, (has_drawn ? "\r\033[K" : "") + text + "\n");
    has_drawn = false;
}

void warn(const std::string& text) { complain("warning: " + text); }

void complain(const std::string& text) {
    draw("");
    write_all(STDERR_FILENO, "longlora_hpc: " + text + "\n");
}

bool is_terminal() {
    static const bool answer = !terminal_path().empty();
    return answer;
}

int terminal_width() {
    constexpr int usual = 80;
    const std::string path = terminal_path();
    const int file = path.empty() ? -1 : open(path.c_str(), O_RDONLY | O_NOCTTY | O_CLOEXEC);
    if (file < 0) {
        return usual;
    }
    winsize size{};
    const bool is_known = ioctl(file, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
    close(file);
    return is_known ? size.ws_col : usual;
}

void draw(const std::string& line) {
    if (has_drawn || !line.empty()) {
        write_all(STDOUT_FILENO, "\r" + line + "\033[K");
    }
    has_drawn = !line.empty();
}

void Table::add(std::vector<std::string> row) {
    ensure(row.size() == rows_.front().size(),
           "a table row has another number of cells than its header");
    rows_.push_back(std::move(row));
}

std::string Table::text() const {
    const std::size_t columns = rows_.front().size();
    std::vector<std::string> lines(rows_.size() + 1);  // one more for the rule
    for (std::size_t c = 0; c < columns; ++c) {
        std::size_t width = 0;
        bool are_numbers = rows_.size() > 1;
        for (std::size_t r = 0; r < rows_.size(); ++r) {
            width = std::max(width, rows_[r][c].size());
            are_numbers = are_numbers && (r == 0 || is_number(rows_[r][c]));
        }
        const std::string gap = c == 0 ? "" : "  ";
        for (std::size_t r = 0; r < rows_.size(); ++r) {
            lines[r == 0 ? 0 : r + 1] += gap + padded(rows_[r][c], width, are_numbers);
        }
        lines[1] += gap + std::string(width, '-');
    }
    std::string text;
    for (auto& line : lines) {
        line.erase(line.find_last_not_of(' ') + 1);
        text += (text.empty() ? "" : "\n") + line;
    }
    return text;
}

}  // namespace longlora
