#include "data/text_files.hpp"

#include <algorithm>
#include <system_error>
#include <vector>

#include "core/error.hpp"
#include "data/utf8.hpp"
#include "io/json.hpp"
#include "io/mapped_file.hpp"

namespace longlora {
namespace {

namespace fs = std::filesystem;
using Use = std::function<void(const Document&)>;

std::string_view without_byte_order_mark(std::string_view text) {
    return text.starts_with("\xef\xbb\xbf") ? text.substr(3) : text;
}

void use_text_file(const fs::path& path, const Use& use) {
    const MappedFile file(path);
    const std::size_t valid = valid_utf8_prefix(file.text());
    if (valid < file.text().size()) {
        const auto line = 1 + std::ranges::count(file.text().substr(0, valid), '\n');
        require(false,
                path.string() + ":" + std::to_string(line) +
                    " is not valid UTF-8; convert the file (iconv -t utf-8), or take it out");
    }
    use({"", std::string(without_byte_order_mark(file.text())), path.string()});
}

Document parse_line(std::string_view line, const std::string& source) {
    const Json json = parse_json_object(line, source);
    const auto has = [&](const char* key) { return json.contains(key) && !json.at(key).is_null(); };
    const bool is_plain = has("text");
    const bool is_instruction = has("prompt") && has("completion");
    require(is_plain != is_instruction,
            source + " must have either \"text\" or both \"prompt\" and \"completion\"");
    return {is_plain ? "" : json_string(json, "prompt", source, ""),
            json_string(json, is_plain ? "text" : "completion", source, ""), source};
}

void use_json_lines(const fs::path& path, const Use& use) {
    const MappedFile file(path);
    std::string_view rest = without_byte_order_mark(file.text());
    for (std::size_t number = 1; !rest.empty(); ++number) {
        const auto end = std::min(rest.find('\n'), rest.size());
        const auto line = rest.substr(0, end);
        rest.remove_prefix(std::min(end + 1, rest.size()));
        if (line.find_first_not_of(" \t\r") != std::string_view::npos) {
            use(parse_line(line, path.string() + ":" + std::to_string(number)));
        }
    }
}

void use_file(const fs::path& path, const Use& use) {
    if (path.extension() == ".jsonl") {
        use_json_lines(path, use);
    } else {
        use_text_file(path, use);
    }
}

std::vector<fs::path> files_below(const fs::path& folder) {
    std::vector<fs::path> files;
    try {
        for (const auto& entry : fs::recursive_directory_iterator(folder)) {
            if (entry.is_regular_file()) {
                files.push_back(entry.path());
            }
        }
    } catch (const fs::filesystem_error& error) {
        require(false, "cannot list " + folder.string() + ": " + error.code().message());
    }
    require(!files.empty(), folder.string() + " holds no files; give a folder with texts in it");
    std::ranges::sort(files);
    return files;
}

}  // namespace

void for_each_document(std::span<const fs::path> paths, const Use& use) {
    for (const auto& path : paths) {
        std::error_code ignored;  // a missing path is reported by who opens it
        if (!fs::is_directory(path, ignored)) {
            use_file(path, use);
            continue;
        }
        for (const auto& file : files_below(path)) {
            use_file(file, use);
        }
    }
}

std::size_t valid_utf8_prefix(std::string_view text) {
    std::size_t at = 0;
    while (at < text.size()) {
        const std::size_t length = utf8_length(text, at);
        if (length == 0) {
            return at;
        }
        at += length;
    }
    return at;
}

}  // namespace longlora
