#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace longlora {

// Cuts text by a regular expression with classes of Unicode (\p{L}), as tokenizers do before they look
// at words: what matches is a piece, and so is what lies between matches.
class TextSplitter {
public:
    // Error for a pattern that is none; `name` is the file it stands in.
    TextSplitter(const std::string& pattern, const std::string& name);
    ~TextSplitter();
    TextSplitter(TextSplitter&&) noexcept;
    TextSplitter& operator=(TextSplitter&&) noexcept;

    // In order and without gaps. Error where `text` is not UTF-8.
    std::vector<std::string_view> split(std::string_view text) const;

private:
    struct Pattern;
    std::unique_ptr<Pattern> pattern_;
};

}  // namespace longlora
