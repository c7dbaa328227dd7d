#pragma once

#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>

namespace longlora {

// A document is prompt + text. Plain text has no prompt; with instruction data the loss is taken
// of `text` alone.
struct Document {
    std::string prompt;
    std::string text;
    std::string source;  // "books/emma.txt", "questions.jsonl:12" for messages
};

// Calls `use` for each document of `paths`, in their order:
//   a folder     all its regular files, recursively, sorted by path;
//   x.jsonl      a document a line: {"text": ...} or {"prompt": ..., "completion": ...}, other keys
//                ignored, blank lines too;
//   other files  one document each (UTF-8; a byte order mark at the start is dropped).
// One document is in memory at a time. A missing file, an empty folder, invalid UTF-8 or JSON is an
// Error that names file and line.
void for_each_document(std::span<const std::filesystem::path> paths,
                       const std::function<void(const Document&)>& use);

// Offset of the first byte that is not valid UTF-8 (overlong forms, surrogates, cut sequences, above
// U+10FFFF), or text.size().
std::size_t valid_utf8_prefix(std::string_view text);

}  // namespace longlora
