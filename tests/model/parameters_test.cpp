#include "model/parameters.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include <boost/test/unit_test.hpp>

#include "core/error.hpp"
#include "model/tiny_model.hpp"

using namespace longlora;
using longlora::test::tiny_config;
using longlora::test::tiny_tune;

namespace {

std::vector<std::string> names(const std::vector<Parameter>& table) {
    std::vector<std::string> result;
    for (const Parameter& parameter : table) {
        result.push_back(parameter.shape.name);
    }
    return result;
}

bool has(const std::vector<Parameter>& table, const std::string& name) {
    const auto all = names(table);
    return std::find(all.begin(), all.end(), name) != all.end();
}

Index lora_size(const LlamaConfig& config, Index rank) {
    const Index q = config.heads * config.head_dim;
    const Index kv = config.kv_heads * config.head_dim;
    const Index E = config.width;
    return config.layers * rank * ((E + q) + 2 * (E + kv) + (q + E));  // q, k, v, o
}

Tune with(TuneMode mode,
          std::vector<std::string> targets = {"q_proj", "k_proj", "v_proj", "o_proj"}) {
    Tune tune = tiny_tune();
    tune.mode = mode;
    tune.targets = std::move(targets);
    return tune;
}

}  // namespace

BOOST_AUTO_TEST_CASE(lora_plus_trains_embeddings_norms_and_lora) {
    const LlamaConfig config = tiny_config();
    const Tune tune = with(TuneMode::lora_plus);
    const auto table = trainable_parameters(config, tune);
    const Index norms = (2 * config.layers + 1) * config.width;
    BOOST_TEST(parameter_count(table) ==
               config.vocabulary * config.width + norms + lora_size(config, tune.rank));
    BOOST_TEST(has(table, "model.embed_tokens.weight"));
    BOOST_TEST(has(table, "model.layers.1.post_attention_layernorm.weight"));
    BOOST_TEST(has(table, "model.norm.weight"));
    BOOST_TEST(has(table, "base_model.model.model.layers.1.self_attn.o_proj.lora_B.weight"));
    BOOST_TEST(!has(table, "lm_head.weight"));
    BOOST_TEST(!has(table, "model.layers.0.self_attn.q_proj.weight"));
    BOOST_TEST(!has(table, "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"));
}

BOOST_AUTO_TEST_CASE(lora_trains_lora_alone) {
    const LlamaConfig config = tiny_config();
    const auto table = trainable_parameters(config, with(TuneMode::lora));
    BOOST_TEST(parameter_count(table) == lora_size(config, tiny_tune().rank));
    const auto few = trainable_parameters(config, with(TuneMode::lora, {"v_proj", "down_proj"}));
    BOOST_TEST(static_cast<Index>(few.size()) == config.layers * 2 * 2);
    BOOST_TEST(has(few, "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight"));
}

BOOST_AUTO_TEST_CASE(full_trains_every_tensor_of_the_model_and_no_lora) {
    for (const bool is_tied : {false, true}) {
        LlamaConfig config = tiny_config();
        config.is_tied = is_tied;
        std::vector<std::string> expected;
        for (const TensorShape& shape : llama_tensors(config)) {
            expected.push_back(shape.name);
        }
        const auto table = trainable_parameters(config, with(TuneMode::full));
        BOOST_TEST(names(table) == expected, boost::test_tools::per_element());
        BOOST_TEST(has(table, "lm_head.weight") == !is_tied);
    }
}

BOOST_AUTO_TEST_CASE(tensors_start_on_cache_lines_and_do_not_overlap) {
    for (const TuneMode mode : {TuneMode::lora_plus, TuneMode::lora, TuneMode::full}) {
        const auto table = trainable_parameters(tiny_config(), with(mode));
        const auto all = names(table);
        BOOST_TEST(std::set(all.begin(), all.end()).size() == table.size());
        Index end = 0;
        for (const Parameter& parameter : table) {
            BOOST_TEST(parameter.offset % 16 == 0);
            BOOST_TEST((parameter.offset >= end && parameter.offset < end + 16));
            end = parameter.offset + parameter.shape.size();
        }
        BOOST_TEST((flat_size(table) >= end && flat_size(table) < end + 16));
        BOOST_TEST(flat_size(table) % 16 == 0);
    }
    BOOST_TEST(flat_size({}) == 0);
}

BOOST_AUTO_TEST_CASE(weight_decay_is_for_matrices) {
    for (const Parameter& parameter :
         trainable_parameters(tiny_config(), with(TuneMode::lora_plus))) {
        const bool is_norm = parameter.shape.name.find("norm") != std::string::npos;
        BOOST_TEST(parameter.decays == !is_norm, parameter.shape.name);
    }
}

BOOST_AUTO_TEST_CASE(views_by_name_lie_at_the_tables_offsets) {
    Parameters<Cpu> parameters(trainable_parameters(tiny_config(), with(TuneMode::lora_plus)));
    BOOST_TEST(parameters.size() == flat_size(parameters.table()));
    BOOST_TEST(parameters.weights().size() == parameters.gradient_sums().size());
    for (const Parameter& parameter : parameters.table()) {
        const std::string& name = parameter.shape.name;
        const bool is_vector = parameter.shape.columns == 0;
        const auto weight = parameters.weight(name);
        const auto gradient = parameters.gradient(name);
        BOOST_TEST(parameters.has(name));
        BOOST_TEST(weight.data() == parameters.weights().data() + parameter.offset);
        BOOST_TEST(gradient.sum.data() == parameters.gradient_sums().data() + parameter.offset);
        BOOST_TEST(weight.rows() == (is_vector ? 1 : parameter.shape.rows));
        BOOST_TEST(weight.columns() ==
                   (is_vector ? parameter.shape.rows : parameter.shape.columns));
        BOOST_TEST(weight.is_contiguous());
    }
    BOOST_TEST(!parameters.has("lm_head.weight"));
    BOOST_CHECK_THROW(parameters.weight("lm_head.weight"), Error);
}

BOOST_AUTO_TEST_CASE(clearing_gradients_leaves_weights_alone) {
    Parameters<Cpu> parameters(trainable_parameters(tiny_config(), with(TuneMode::lora)));
    std::fill(parameters.weights().begin(), parameters.weights().end(), 2.0F);
    const auto sums = parameters.gradient_sums();
    std::fill(sums.begin(), sums.end(), 3);
    parameters.refused()[0] = 4;
    parameters.clear_gradients(Stream<Cpu>(), 1);
    const auto all = [](auto values, auto value) {
        return std::all_of(values.begin(), values.end(), [&](auto x) { return x == value; });
    };
    BOOST_TEST(all(parameters.weights(), 2.0F));
    BOOST_TEST(all(sums, 0));
    BOOST_TEST(parameters.refused()[0] == 0);
}

// A step that fills the range to its end is refused before any sum can have turned over.
BOOST_AUTO_TEST_CASE(addends_are_refused_before_their_sum_could_overflow) {
    constexpr double tokens = 64;
    Parameters<Cpu> parameters(trainable_parameters(tiny_config(), with(TuneMode::lora)));
    const std::string name = parameters.table().front().shape.name;
    const auto gradient = parameters.gradient(name);
    const auto commit_all = [&](float value) {
        parameters.clear_gradients(Stream<Cpu>(), tokens);
        std::fill_n(gradient.addend.data(), gradient.addend.flat().size(), 0.0F);
        gradient.addend(0, 0) = value;
        for (Index piece = 0; piece < 4; ++piece) {
            gradient.commit(Stream<Cpu>(), 16);
        }
        return std::ldexp(static_cast<double>(gradient.sum(0, 0)), -48);
    };
    parameters.clear_gradients(Stream<Cpu>(), tokens);
    const float largest = gradient.largest_addend(16);
    for (const float value : {largest, -largest, 1.0F}) {
        BOOST_TEST(commit_all(value) == 4 * static_cast<double>(value));
        BOOST_TEST(parameters.refused()[0] == 0);
    }
    BOOST_TEST(largest > 1000);
    for (const float value :
         {std::nextafter(largest, 1e9F), -1e30F, std::numeric_limits<float>::infinity(),
          std::numeric_limits<float>::quiet_NaN()}) {
        BOOST_TEST(commit_all(value) == 0);
        BOOST_TEST(parameters.refused()[0] == 4);
    }
}

// The largest tensor by far: memory for its addend would be two GiB of an 8B model.
BOOST_AUTO_TEST_CASE(an_embedding_that_is_only_looked_up_has_no_addend) {
    LlamaConfig config = tiny_config();
    config.vocabulary = 10000;
    for (const bool is_tied : {false, true}) {
        config.is_tied = is_tied;
        const auto table = trainable_parameters(config, with(TuneMode::lora_plus));
        const auto sums = static_cast<std::size_t>(flat_size(table)) * 12;  // float and integer
        const auto embedding = static_cast<std::size_t>(config.vocabulary * config.width) * 4;
        const std::size_t addend = Parameters<Cpu>::bytes(table) - sums;
        BOOST_TEST((is_tied ? addend == embedding : addend < embedding / 10));
        Parameters<Cpu> parameters(table);
        BOOST_TEST((parameters.gradient("model.embed_tokens.weight").addend.rows() > 0) == is_tied);
    }
}
