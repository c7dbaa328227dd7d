#pragma once

#include <string>
#include <string_view>

#include "core/device.hpp"
#include "core/has_nccl.hpp"
#include "sequence/layout.hpp"

namespace longlora {

// The options that choose among words. Enumerators count from zero in the order of their texts below;
// the namespace keeps them apart from what other layers call by the same name.
namespace choice {

enum class Resume { automatic, never, require };
enum class Mode { lora_plus, lora, full };
enum class Scaling { none, linear };
enum class Schedule { constant, linear, cosine };
enum class Deterministic { run, layout };
enum class Activations { automatic, keep, recompute_mlp, recompute_layer };
enum class Device { automatic, cpu, cuda };
enum class Storage { bfloat16, float32 };
enum class Weights { resident };
enum class Protocol { sliding, longlora };
enum class Attention { full, s2 };
enum class Transport { automatic, mpi, nccl };
enum class Dtype { float32, float16, bfloat16 };

}  // namespace choice

// Words separated by spaces. A word of `later` is known but not built: refused by that name.
struct ChoiceTexts {
    std::string_view built;
    std::string_view later = "";
};

template <class Enum>
inline constexpr ChoiceTexts choice_texts = {};
template <>
inline constexpr ChoiceTexts choice_texts<Pattern> = {"s2 local shifted full"};
template <>
inline constexpr ChoiceTexts choice_texts<Boundary> = {"truncate wrap"};
template <>
inline constexpr ChoiceTexts choice_texts<choice::Resume> = {"auto never require"};
template <>
inline constexpr ChoiceTexts choice_texts<choice::Mode> = {"lora_plus lora full"};
template <>
inline constexpr ChoiceTexts choice_texts<choice::Scaling> = {"none linear", "dynamic yarn llama3"};
template <>
inline constexpr ChoiceTexts choice_texts<choice::Schedule> = {"constant linear cosine"};
template <>
inline constexpr ChoiceTexts choice_texts<choice::Deterministic> = {"run layout"};
template <>
inline constexpr ChoiceTexts choice_texts<choice::Activations> = {
    "auto keep recompute_mlp recompute_layer"};
template <>
inline constexpr ChoiceTexts choice_texts<choice::Device> =
    has_cuda ? ChoiceTexts{"auto cpu cuda"} : ChoiceTexts{"auto cpu", "cuda"};
template <>
inline constexpr ChoiceTexts choice_texts<choice::Storage> = {"bfloat16 float32"};
template <>
inline constexpr ChoiceTexts choice_texts<choice::Weights> = {"resident", "sharded nf4 int8 host"};
template <>
inline constexpr ChoiceTexts choice_texts<choice::Protocol> = {"sliding longlora"};
template <>
inline constexpr ChoiceTexts choice_texts<choice::Attention> = {"full s2"};
template <>
inline constexpr ChoiceTexts choice_texts<choice::Transport> =
    has_nccl ? ChoiceTexts{"auto mpi nccl"} : ChoiceTexts{"auto mpi", "nccl"};
template <>
inline constexpr ChoiceTexts choice_texts<choice::Dtype> = {"float32 float16 bfloat16"};

std::string choice_text(const ChoiceTexts& texts, int value);
// Throws Error (bad input) that names `key` and the words that would be right, after `where`.
int choice_value(const ChoiceTexts& texts, std::string_view text, const std::string& key,
                 const std::string& where);

template <class Enum>
std::string to_text(Enum value) {
    return choice_text(choice_texts<Enum>, static_cast<int>(value));
}

template <class Enum>
Enum from_text(std::string_view text, const std::string& key, const std::string& where = "") {
    return static_cast<Enum>(choice_value(choice_texts<Enum>, text, key, where));
}

}  // namespace longlora
