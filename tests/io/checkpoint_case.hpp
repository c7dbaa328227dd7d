#pragma once

#include <algorithm>
#include <array>
#include <functional>
#include <string>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "comm/communicator.hpp"
#include "comm/environment.hpp"
#include "core/random.hpp"
#include "io/checkpoint_file.hpp"
#include "support/shared_folder.hpp"

// Checkpoints of a few odd tensors, for the tests of writing, reading and damage.
namespace longlora::test {

// Odd shapes: wider than a chunk, longer than one, a single element, an empty tensor.
inline const std::vector<CheckpointTensor> tensors = [] {
    std::vector<CheckpointTensor> table{{"base_model.model.model.embed_tokens.weight", 131, 30, 0},
                                        {"model.layers.0.self_attn.q_proj.lora_A.weight", 3, 7, 0},
                                        {"model.layers.0.self_attn.q_proj.lora_B.weight", 7, 3, 0},
                                        {"model.layers.0.input_layernorm.weight", 7, 0, 0},
                                        {"wide", 2, 262147, 0},
                                        {"long", 262145, 0, 0},
                                        {"empty", 0, 0, 0},
                                        {"one", 1, 1, 0}};
    Index offset = 0;
    for (CheckpointTensor& tensor : table) {
        tensor.offset = offset;
        offset += tensor.size();
    }
    return table;
}();
inline const Index total = tensors.back().offset + tensors.back().size();

inline const Attributes attributes{{"step", std::int64_t{200}},
                                   {"seed", ~std::uint64_t{0}},
                                   {"train.learning_rate", 2e-5},
                                   {"run.name", std::string("")},
                                   {"model.path", std::string("base")}};

// What each place holds; `version` tells checkpoints apart.
inline float value_at(int array, Index i, std::uint64_t version = 0) {
    const std::uint64_t key =
        random_key(version, Purpose::dropout, static_cast<std::uint64_t>(array));
    return static_cast<float>(random_uniform(key, static_cast<std::uint64_t>(i))) - 0.5F;
}

struct Part {
    explicit Part(Range range) : range(range) {
        for (auto& array : arrays) {
            array.resize(static_cast<std::size_t>(range.size()), -7.0F);
        }
    }
    Part(Range range, std::uint64_t version) : Part(range) {
        for (int a = 0; a < 3; ++a) {
            for (Index i = range.begin; i < range.end; ++i) {
                at(a, i) = value_at(a, i, version);
            }
        }
    }
    float& at(int array, Index i) {
        return arrays[static_cast<std::size_t>(array)][static_cast<std::size_t>(i - range.begin)];
    }
    CheckpointPart<const float> source() const { return {range, arrays[0], arrays[1], arrays[2]}; }
    CheckpointPart<float> target() { return {range, arrays[0], arrays[1], arrays[2]}; }
    bool operator==(const Part&) const = default;

    Range range;
    std::array<std::vector<float>, 3> arrays;
};

// Ways to deal the flat array to the ranks.
inline Range even() {
    const Index rank = world_rank();
    return {total * rank / world_size(), total * (rank + 1) / world_size()};
}
inline Range all_on(int owner) {
    const int rank = world_rank();
    return {rank <= owner ? 0 : total, rank < owner ? 0 : total};
}
inline Range uneven() {  // cuts inside rows
    const Index ranks = world_size();
    const auto border = [&](Index r) {
        return r == ranks ? total : total * r * r / (ranks * ranks);
    };
    return {border(world_rank()), border(world_rank() + 1)};
}

inline void write(const std::string& path, Range range, std::uint64_t version = 0) {
    Attributes own = attributes;
    own["version"] = version;
    write_checkpoint(path, own, tensors, Part(range, version).source());
}

inline bool reads_back(const std::string& path, Range range, std::uint64_t version = 0) {
    Part part(range);
    const Attributes found = read_checkpoint(path, tensors, part.target());
    Attributes expected = attributes;
    expected["version"] = version;
    return found == expected && part == Part(range, version);
}

// The message of the Error that all ranks throw alike, with this exit code.
template <class Action>
std::string shared_error(const Action& action, ExitCode code = ExitCode::bad_input) {
    try {
        action();
    } catch (const Error& error) {
        BOOST_TEST(error.seen_by_all());
        BOOST_TEST((error.code() == code), error.what());
        return error.what();
    }
    return "(no error)";
}

inline void on_first_rank(const std::function<void()>& action) {
    Communicator<Cpu>::world().barrier();
    if (world_rank() == 0) {
        action();
    }
    Communicator<Cpu>::world().barrier();
}

}  // namespace longlora::test
