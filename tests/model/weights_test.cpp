// Where weights come from and where they lie: base_weights, trainable_start, weight_store.
#include <algorithm>
#include <cmath>

#include <boost/test/unit_test.hpp>

#include "model/tiny_model.hpp"

using namespace longlora;
using namespace longlora::test;

namespace {

std::vector<float> values_of(const BaseWeights& base, const TensorShape& shape) {
    std::vector<float> values(static_cast<std::size_t>(shape.size()));
    base.read(shape, values);
    return values;
}

Tune with(TuneMode mode) {
    Tune tune = tiny_tune();
    tune.mode = mode;
    return tune;
}

bool holds(View<Cpu, const float, 2> view, const BaseWeights& base, const TensorShape& shape) {
    const auto expected = values_of(base, shape);
    return view.rows() * view.columns() == shape.size() &&
           std::equal(expected.begin(), expected.end(), view.flat().begin());
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_random_start_is_a_function_of_seed_and_name) {
    const LlamaConfig config = tiny_config();
    const BaseWeights first(config, 1);
    const BaseWeights again(config, 1);
    const BaseWeights other(config, 2);
    for (const TensorShape& shape : llama_tensors(config)) {
        BOOST_TEST((values_of(first, shape) == values_of(again, shape)));
        BOOST_TEST((values_of(first, shape) == values_of(other, shape)) == (shape.columns == 0));
    }
    const TensorShape k{"model.layers.0.self_attn.k_proj.weight", 12, 14};
    const TensorShape v{"model.layers.0.self_attn.v_proj.weight", 12, 14};
    BOOST_TEST((values_of(first, k) != values_of(first, v)));
    BOOST_TEST(first.fingerprint() == again.fingerprint());
    BOOST_TEST(first.fingerprint() != other.fingerprint());
    LlamaConfig wider = config;
    wider.mlp_width += 1;
    BOOST_TEST(first.fingerprint() != BaseWeights(wider, 1).fingerprint());
}

BOOST_AUTO_TEST_CASE(a_random_start_is_normal_with_deviation_0_02_and_norms_of_1) {
    const BaseWeights base(tiny_config(), 3);
    const auto values = values_of(base, {"model.embed_tokens.weight", 200, 100});
    double sum = 0;
    double squares = 0;
    for (const float value : values) {
        sum += static_cast<double>(value);
        squares += static_cast<double>(value) * static_cast<double>(value);
    }
    const auto count = static_cast<double>(values.size());
    BOOST_TEST(std::abs(sum / count) < 4 * 0.02 / std::sqrt(count));
    BOOST_TEST(std::abs(std::sqrt(squares / count) / 0.02 - 1) < 4 / std::sqrt(2 * count));
    for (const float value : values_of(base, {"model.norm.weight", 14, 0})) {
        BOOST_TEST(value == 1);
    }
}

BOOST_AUTO_TEST_CASE(a_model_on_disk_is_read_as_it_is) {
    const LlamaConfig config = tiny_config();
    const BaseWeights base = lively_base(config);
    BOOST_TEST(base.config().head_dim == config.head_dim);
    for (const NamedValues& tensor : lively_values(config)) {
        BOOST_TEST((values_of(base, tensor.shape) == tensor.values), tensor.shape.name);
    }
    BOOST_TEST(base.fingerprint() == lively_base(config).fingerprint());
}

// A uniform in +-1/sqrt(in), B zero, all else the base's.
BOOST_AUTO_TEST_CASE(trainables_start_from_the_base_with_a_lora_that_changes_nothing) {
    const LlamaConfig config = tiny_config();
    const BaseWeights base = lively_base(config);
    Parameters<Cpu> parameters(trainable_parameters(config, with(TuneMode::lora_plus)));
    initialise_trainables(Stream<Cpu>(), parameters, base, nullptr, 9);
    for (const Parameter& parameter : parameters.table()) {
        const TensorShape& shape = parameter.shape;
        const auto values = parameters.weight(shape.name).flat();
        if (shape.name.find("lora_") == std::string::npos) {
            BOOST_TEST(holds(parameters.weight(shape.name), base, shape), shape.name);
            continue;
        }
        const bool is_a = shape.name.find("lora_A") != std::string::npos;
        const double bound = is_a ? 1 / std::sqrt(static_cast<double>(shape.columns)) : 0;
        double largest = 0;
        for (const float value : values) {
            largest = std::max(largest, std::abs(static_cast<double>(value)));
        }
        BOOST_TEST(largest <= bound, shape.name);
        BOOST_TEST(largest >= 0.8 * bound, shape.name);
    }
}

BOOST_AUTO_TEST_CASE(lora_starts_alike_for_a_seed_and_differs_between_tensors_and_seeds) {
    const LlamaConfig config = tiny_config();
    const BaseWeights base(config, 1);
    const auto start = [&](std::uint64_t seed) {
        Parameters<Cpu> parameters(trainable_parameters(config, with(TuneMode::lora)));
        initialise_trainables(Stream<Cpu>(), parameters, base, nullptr, seed);
        return std::vector<float>(parameters.weights().begin(), parameters.weights().end());
    };
    BOOST_TEST((start(1) == start(1)));
    BOOST_TEST((start(1) != start(2)));
    Parameters<Cpu> parameters(trainable_parameters(config, with(TuneMode::lora)));
    initialise_trainables(Stream<Cpu>(), parameters, base, nullptr, 1);
    const auto first = [&](const std::string& layer) {
        return parameters.weight("base_model.model.model.layers." + layer + ".lora_A.weight")(0, 0);
    };
    BOOST_TEST(first("0.self_attn.q_proj") != first("0.self_attn.k_proj"));
    BOOST_TEST(first("0.self_attn.q_proj") != first("1.self_attn.q_proj"));
}

// Trained weights are seen where they are trained: an update needs no copy.
BOOST_AUTO_TEST_CASE(the_store_shows_frozen_weights_and_trained_ones_in_place) {
    for (const TuneMode mode : {TuneMode::lora_plus, TuneMode::lora, TuneMode::full}) {
        for (const bool is_tied : {false, true}) {
            LlamaConfig config = tiny_config();
            config.is_tied = is_tied;
            TinyModel model(config, with(mode));
            const LayerWeights<Cpu> layer = model.store.acquire(1);
            const EndWeights<Cpu>& ends = model.store.ends();
            const Index q = config.heads * config.head_dim;
            BOOST_TEST(holds(layer.q, model.base,
                             {"model.layers.1.self_attn.q_proj.weight", q, config.width}));
            BOOST_TEST(holds(layer.o, model.base,
                             {"model.layers.1.self_attn.o_proj.weight", config.width, q}));
            BOOST_TEST(
                holds(layer.down, model.base,
                      {"model.layers.1.mlp.down_proj.weight", config.width, config.mlp_width}));
            BOOST_TEST(holds(ends.embedding, model.base,
                             {"model.embed_tokens.weight", config.vocabulary, config.width}));
            BOOST_TEST(layer.input_norm.size() == config.width);
            BOOST_TEST((ends.head.data() == ends.embedding.data()) == is_tied);
            if (mode != TuneMode::lora) {
                BOOST_TEST(ends.embedding.data() ==
                           model.parameters.weight("model.embed_tokens.weight").data());
                BOOST_TEST(ends.norm.data() == model.parameters.weight("model.norm.weight").data());
            }
            if (mode == TuneMode::full) {
                BOOST_TEST(
                    layer.q.data() ==
                    model.parameters.weight("model.layers.1.self_attn.q_proj.weight").data());
                BOOST_TEST(WeightStore<Cpu>::bytes(config, with(mode)) == 0U);
            } else {
                BOOST_TEST(WeightStore<Cpu>::bytes(config, with(mode)) > 0U);
            }
        }
    }
}

// In mode lora the embeddings are frozen, but those of the adapter, not of the base.
BOOST_AUTO_TEST_CASE(what_an_adapter_has_saved_stands_in_for_frozen_weights_too) {
    const LlamaConfig config = tiny_config();
    Tune tune = tiny_tune();
    tune.mode = TuneMode::lora;
    const TemporaryFolder folder;
    std::vector<TensorShape> shapes =
        adapter_tensors(config, {tune.rank, tune.alpha, 0, tune.targets});
    for (const TensorShape& shape : llama_tensors(config)) {
        if (shape.name == "model.embed_tokens.weight" || shape.name == "lm_head.weight") {
            shapes.push_back({adapter_name(shape.name), shape.rows, shape.columns});
        }
    }
    const auto tensors = random_values(shapes);
    std::vector<TensorToWrite> written;
    for (const NamedValues& tensor : tensors) {
        written.push_back(
            {tensor.shape.name, {tensor.shape.rows, tensor.shape.columns}, "F32", tensor.values});
    }
    write_safetensors(folder / "adapter_model.safetensors", written);
    write_file(
        folder / "adapter_config.json",
        R"({"peft_type": "LORA", "r": 3, "lora_alpha": 4.5, "target_modules": ["q_proj", "k_proj",
                  "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]})");
    BaseWeights base = lively_base(config);
    base.set_adapter(std::make_shared<const AdapterFiles>(AdapterFiles::open(folder.path())));
    Parameters<Cpu> parameters(trainable_parameters(config, tune));
    const WeightStore<Cpu> store(Stream<Cpu>(), base, tune, parameters);
    const auto& head = tensors.back().values;
    const auto& embedding = tensors[tensors.size() - 2].values;
    BOOST_TEST(
        std::equal(embedding.begin(), embedding.end(), store.ends().embedding.flat().begin()));
    BOOST_TEST(std::equal(head.begin(), head.end(), store.ends().head.flat().begin()));
}
