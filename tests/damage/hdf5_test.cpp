#include <algorithm>
#include <array>
#include <bit>
#include <tuple>

#include <boost/test/unit_test.hpp>

#include "data/token_file.hpp"
#include "io/checkpoint_file.hpp"
#include "io/run_log.hpp"
#include "support/damage.hpp"
#include "support/files.hpp"

// Files with checksums: damage is noticed, or without effect.
namespace longlora {
namespace {

using test::Damage;
using test::for_each_damage;
using test::read_file;
using test::TemporaryFolder;
using test::write_damaged;

// How often damage was noticed: told at the end, so that one sees that the test tests something.
struct Tally {
    int noticed = 0;
    int harmless = 0;
    ~Tally() { BOOST_TEST_MESSAGE(noticed << " noticed, " << harmless << " without effect"); }
    void count(bool is_noticed) { ++(is_noticed ? noticed : harmless); }
};

// ---- checkpoints

struct Values {
    explicit Values(Index size) {
        for (auto& array : arrays) {
            array.resize(static_cast<std::size_t>(size));
        }
    }
    Values(Index size, std::uint64_t version) : Values(size) {
        std::uint64_t key = version << 40U;
        for (auto& array : arrays) {
            for (float& value : array) {
                value = static_cast<float>(random_normal(1, ++key));
            }
        }
    }
    CheckpointPart<const float> source() const {
        return {{0, static_cast<Index>(arrays[0].size())}, arrays[0], arrays[1], arrays[2]};
    }
    CheckpointPart<float> target() {
        return {{0, static_cast<Index>(arrays[0].size())}, arrays[0], arrays[1], arrays[2]};
    }
    bool operator==(const Values&) const = default;

    std::array<std::vector<float>, 3> arrays;
};

Attributes attributes_of(Index step) {
    return {{"step", std::int64_t{step}},
            {"base_fingerprint", std::uint64_t{0x123456789abcdef}},
            {"train.learning_rate", 2e-5},
            {"run.name", std::string("books")}};
}

// Two checkpoints; the newer one is damaged, and loaded whole or passed over for the older one.
void damage_checkpoints(const std::vector<CheckpointTensor>& tensors, int few) {
    const TemporaryFolder folder;
    const Index size = tensors.back().offset + tensors.back().size();
    for (const Index step : {1, 2}) {
        write_checkpoint(checkpoint_path(folder.path().string(), step), attributes_of(step),
                         tensors, Values(size, static_cast<std::uint64_t>(step)).source());
    }
    const std::string newest = checkpoint_path(folder.path().string(), 2);
    Tally tally;
    for_each_damage(read_file(newest), few, [&](const Damage& damage) {
        write_damaged(newest, damage);
        int notices = 0;
        Values values(size);
        const auto loaded = load_newest_checkpoint(folder.path().string(), tensors, values.target(),
                                                   [&](const std::string&) { ++notices; });
        BOOST_TEST(loaded.has_value());
        BOOST_TEST(loaded->step == (notices > 0 ? 1 : 2));
        BOOST_TEST((loaded->attributes == attributes_of(loaded->step)));
        BOOST_TEST((values == Values(size, static_cast<std::uint64_t>(loaded->step))));
        BOOST_TEST(is_intact_checkpoint(newest, [](const std::string&) {}) == (notices == 0));
        tally.count(notices > 0);
    });
}

BOOST_AUTO_TEST_CASE(checkpoint) {
    // Small tensors: most of the file is structure.
    std::vector<CheckpointTensor> tensors;
    Index offset = 0;
    for (int layer = 0; layer < 12; ++layer) {
        tensors.push_back(
            {"model.layers." + std::to_string(layer) + ".q_proj.lora_A.weight", 3, 7, offset});
        tensors.push_back(
            {"model.layers." + std::to_string(layer) + ".norm.weight", 5, 0, offset + 21});
        offset += 26;
    }
    damage_checkpoints(tensors, 300);
}

BOOST_AUTO_TEST_CASE(checkpoint_of_several_chunks) {
    damage_checkpoints({{"model.embed_tokens.weight", 2, 262147, 0}}, 10);
}

// ---- log.h5

const std::vector<LogQuantity> quantities{{"step", true}, {"loss", false}, {"tokens", true}};

void write_log(const std::string& path) {
    RunLog log = RunLog::create(path, attributes_of(0), quantities);
    for (Index step = 1; step <= 40; ++step) {
        const double s = static_cast<double>(step);
        log.append_step(std::array{s, 1.0 / s, 4096.0 * s});
    }
    log.append_evaluation({40, "trained", "sliding", 4096, 32768, 3.75});
    log.append_event({1.5, 40, "finished", "40 steps"});
    log.close();
}

// All of it as text, bits of numbers included.
std::string text_of(const LogContents& log) {
    std::string text;
    const auto add = [&](double value) {
        text += std::to_string(std::bit_cast<std::uint64_t>(value)) + ' ';
    };
    for (const LogColumn& column : log.steps) {
        text += column.quantity.name + (column.quantity.is_integer ? " i " : " f ");
        std::for_each(column.values.begin(), column.values.end(), add);
    }
    for (const EvaluationRow& row : log.evaluations) {
        text += row.model + row.protocol + std::to_string(row.step) + ' ' +
                std::to_string(row.context) + ' ' + std::to_string(row.scored_tokens) + ' ';
        add(row.perplexity);
    }
    for (const EventRow& row : log.events) {
        text += row.kind + row.message + std::to_string(row.step) + ' ';
        add(row.time);
    }
    return text;
}

BOOST_AUTO_TEST_CASE(log_file) {
    const TemporaryFolder folder;
    const std::string path = (folder / "log.h5").string();
    write_log(path);
    const LogContents intact = read_log(path);
    Tally tally;
    for_each_damage(read_file(path), 150, [&](const Damage& damage) {
        write_damaged(path, damage);
        bool is_noticed = false;
        try {
            const LogContents contents = read_log(path);
            BOOST_TEST(text_of(contents) == text_of(intact));
            BOOST_TEST((contents.attributes == intact.attributes));
        } catch (const Error&) {
            is_noticed = true;
        }
        tally.count(is_noticed);
    });
}

BOOST_AUTO_TEST_CASE(log_of_a_run_that_goes_on) {
    const TemporaryFolder folder;
    const std::string path = (folder / "log.h5").string();
    write_log(path);
    const std::string intact = text_of(read_log(path));
    for_each_damage(read_file(path), 20, [&](const Damage& damage) {
        write_damaged(path, damage);
        int notices = 0;
        RunLog::resume(path, attributes_of(0), quantities, 40, [&](const std::string&) {
            ++notices;
        }).close();
        const LogContents contents = read_log(path);
        BOOST_TEST((text_of(contents) == intact) == (notices == 0));
        BOOST_TEST(contents.column("step").size() == (notices == 0 ? 40U : 0U));
    });
}

// ---- tokens.h5

BOOST_AUTO_TEST_CASE(token_file) {
    constexpr Index documents = 9;
    const TemporaryFolder folder;
    const std::string path = (folder / "tokens.h5").string();
    TokenFileWriter writer(path, {"small.model", "0123456789abcdef", 400, true});
    for (Index d = 0; d < documents; ++d) {
        std::vector<std::int32_t> tokens;
        for (Index t = 0; t < 20 + d; ++t) {
            tokens.push_back(static_cast<std::int32_t>(
                mix_bits(static_cast<std::uint64_t>(1000 * d + t)) % 400));
        }
        writer.append(tokens, d);
    }
    writer.close();
    const auto read = [&] {
        const TokenFile file(path, 400);
        std::vector<std::int32_t> all(static_cast<std::size_t>(2 * file.size()));
        const auto half = static_cast<std::size_t>(file.size());
        file.read({0, file.size()}, std::span(all).first(half));
        file.read_labels({0, file.size()}, std::span(all).last(half));
        const TokenFileInfo& info = file.info();
        return std::tuple{all, info.tokenizer, info.tokenizer_digest, info.vocabulary};
    };
    const auto intact = read();
    Tally tally;
    for_each_damage(read_file(path), 300, [&](const Damage& damage) {
        write_damaged(path, damage);
        bool is_noticed = false;
        try {
            BOOST_TEST((read() == intact));
        } catch (const Error&) {
            is_noticed = true;
        }
        tally.count(is_noticed);
    });
}

}  // namespace
}  // namespace longlora
