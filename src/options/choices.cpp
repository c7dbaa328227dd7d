#include "options/choices.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "core/text.hpp"

namespace longlora {
namespace {

bool contains(const std::vector<std::string>& words, std::string_view word) {
    return std::find(words.begin(), words.end(), word) != words.end();
}

}  // namespace

std::string choice_text(const ChoiceTexts& texts, int value) {
    return split(texts.built, ' ').at(static_cast<std::size_t>(value));
}

int choice_value(const ChoiceTexts& texts, std::string_view text, const std::string& key,
                 const std::string& where) {
    const auto built = split(texts.built, ' ');
    const std::string choices = join(built, ", ");
    if (contains(split(texts.later, ' '), text)) {
        // The values that depend on the machine and not on the program's age.
        const std::string absent = text == "cuda" ? "CUDA" : text == "nccl" ? "NCCL" : "";
        throw Error(where + key + " " + std::string(text) +
                        (absent.empty() ? " is not built yet" : ": this build has no " + absent) +
                        "; choose from " + choices,
                    ExitCode::bad_input);
    }
    const auto found = std::find(built.begin(), built.end(), text);
    require(found != built.end(),
            where + key + " must be one of " + choices + ", not '" + std::string(text) + "'");
    return static_cast<int>(found - built.begin());
}

}  // namespace longlora
