#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "io/checkpoint_file.hpp"

// What writing and reading a checkpoint share. Private to src/io/checkpoint_*.cpp.
namespace longlora {

constexpr Index checkpoint_chunk = 262144;  // elements, 1 MiB
constexpr auto digest_name = "digest";
constexpr auto attributes_digest_name = "attributes_digest";
constexpr auto passed_over = "; trying the checkpoint before it";
constexpr std::size_t group_count = 3;
const std::array<std::string, group_count> checkpoint_groups{"/trainable", "/moments/first",
                                                             "/moments/second"};

template <class T>
std::array<std::span<T>, group_count> arrays_of(const CheckpointPart<T>& part) {
    return {part.weights, part.first, part.second};
}

// The elements of a tensor that lie in a range of the flat array, counted from the tensor's begin.
Range elements_in(const CheckpointTensor& tensor, Range range);

template <class T>
std::span<T> values_of(const CheckpointTensor& tensor, Range elements, Range range,
                       std::span<T> array) {
    const Index begin = elements.empty() ? 0 : tensor.offset + elements.begin - range.begin;
    return array.subspan(static_cast<std::size_t>(begin),
                         static_cast<std::size_t>(elements.size()));
}

Index total_size(std::span<const CheckpointTensor> tensors);

// Digests of each tensor in each group.
using Digests = std::vector<std::uint64_t>;
constexpr std::size_t digest_place(std::size_t group, std::size_t tensor) {
    return tensor * group_count + group;
}

// A sum over elements modulo 2^64, so that it can be formed in pieces, cut anywhere.
std::uint64_t digest_elements(Range elements, std::span<const float> values);

// Attributes, tensors and digests of a file, verified.
struct DescribedCheckpoint {
    CheckpointDescription content;
    Digests digests;
};
DescribedCheckpoint describe_with_digests(const std::string& path);
// The digests in the order of `tensors`; an Error unless these are the very tensors of the file.
Digests match_tensors(const std::string& path, const DescribedCheckpoint& file,
                      std::span<const CheckpointTensor> tensors);
std::string damaged_file(const std::string& path);  // how a message about it starts

// The newest of `steps`, which begin with it, whose file is intact: fault(path) is empty. `notify` hears
// why each of those before was passed over.
template <class Fault>
std::optional<Index> newest_intact(const std::string& folder, std::span<const Index> steps,
                                   const Notify& notify, const Fault& fault) {
    for (const Index step : steps) {
        const std::string why = fault(checkpoint_path(folder, step));
        if (why.empty()) {
            return step;
        }
        notify(why + passed_over);
    }
    return std::nullopt;
}

// Collective. Of the whole tensors, from the parts that the ranks hold.
Digests digest_tensors(std::span<const CheckpointTensor> tensors,
                       const CheckpointPart<const float>& mine);

// Over all that is not a tensor's element: attributes, names, shapes, tensors' digests. It does not
// depend on the order of the tensors.
std::uint64_t digest_attributes(const Attributes& attributes,
                                std::span<const CheckpointTensor> tensors, const Digests& digests);

// Collective: what both directions ask of the caller.
void check_parts(std::span<const CheckpointTensor> tensors,
                 const CheckpointPart<const float>& mine);

}  // namespace longlora
