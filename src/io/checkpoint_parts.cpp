#include "io/checkpoint_parts.hpp"

#include <algorithm>
#include <bit>

#include "comm/communicator.hpp"
#include "core/error.hpp"
#include "core/random.hpp"
#include "io/digest.hpp"
#include "io/hdf5_together.hpp"

namespace longlora {
namespace {

// Elements of tensors in a range of the flat array, the padding between tensors left out.
Index held_size(std::span<const CheckpointTensor> tensors, Range range) {
    Index held = 0;
    for (const CheckpointTensor& tensor : tensors) {
        held += Range{std::max(range.begin, tensor.offset),
                      std::min(range.end, tensor.offset + tensor.size())}
                    .size();
    }
    return held;
}

}  // namespace

std::uint64_t digest_elements(Range elements, std::span<const float> values) {
    std::uint64_t sum = 0;
    auto index = static_cast<std::uint64_t>(elements.begin);
    for (const float value : values) {
        sum += mix_bits(index << 32U ^ std::bit_cast<std::uint32_t>(value));
        ++index;
    }
    return sum;
}

Range elements_in(const CheckpointTensor& tensor, Range range) {
    const Index begin = std::clamp<Index>(range.begin - tensor.offset, 0, tensor.size());
    return {begin, std::clamp<Index>(range.end - tensor.offset, begin, tensor.size())};
}

Index total_size(std::span<const CheckpointTensor> tensors) {
    Index total = 0;
    for (const CheckpointTensor& tensor : tensors) {
        total += tensor.size();
    }
    return total;
}

Digests digest_tensors(std::span<const CheckpointTensor> tensors,
                       const CheckpointPart<const float>& mine) {
    Digests digests(group_count * tensors.size());
    for (std::size_t t = 0; t < tensors.size(); ++t) {
        const Range elements = elements_in(tensors[t], mine.range);
        for (std::size_t g = 0; g < group_count; ++g) {
            digests[digest_place(g, t)] = digest_elements(
                elements, values_of(tensors[t], elements, mine.range, arrays_of(mine)[g]));
        }
    }
    const auto count = static_cast<Index>(digests.size());
    Communicator<Cpu>::world().all_reduce_sum(View<Cpu, std::uint64_t, 1>(digests.data(), count));
    return digests;
}

std::uint64_t digest_attributes(const Attributes& attributes,
                                std::span<const CheckpointTensor> tensors, const Digests& digests) {
    std::uint64_t sum = 0;
    for (const auto& [name, value] : attributes) {
        const std::uint64_t held = std::visit(
            []<class T>(const T& plain) {
                if constexpr (std::is_same_v<T, std::string>) {
                    return digest_of(plain);
                } else {
                    return std::bit_cast<std::uint64_t>(plain);
                }
            },
            value);
        sum += mix_bits(digest_of(name) ^ mix_bits(held + value.index()));
    }
    for (std::size_t t = 0; t < tensors.size(); ++t) {
        std::uint64_t all = digest_of(tensors[t].name);
        all = mix_bits(all ^ static_cast<std::uint64_t>(tensors[t].rows));
        all = mix_bits(all ^ static_cast<std::uint64_t>(tensors[t].columns));
        for (std::size_t g = 0; g < group_count; ++g) {
            all = mix_bits(all ^ digests[digest_place(g, t)]);
        }
        sum += all;
    }
    return sum;
}

void check_parts(std::span<const CheckpointTensor> tensors,
                 const CheckpointPart<const float>& mine) {
    const Index held = Communicator<Cpu>::world().sum(held_size(tensors, mine.range));
    together(SharedWork::independent, [&] {
        ensure(held == total_size(tensors), "the ranks' parts do not cover the trainables once");
        for (const auto& array : arrays_of(mine)) {
            ensure(static_cast<Index>(array.size()) == mine.range.size(),
                   "a part of the checkpoint has another size than its range");
        }
        for (const CheckpointTensor& tensor : tensors) {
            ensure(tensor.name.find('/') == std::string::npos,
                   "a tensor's name must not hold a slash: " + tensor.name);
        }
    });
}

}  // namespace longlora
