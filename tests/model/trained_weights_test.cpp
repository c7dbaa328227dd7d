#include "model/trained_weights.hpp"

#include <boost/test/unit_test.hpp>

#include "io/exported_config.hpp"
#include "model/tiny_model.hpp"

namespace longlora {
namespace {

using namespace test;

// A base of tiny sizes with an adapter that holds all seven pairs and these tensors of the model.
struct Adapted {
    explicit Adapted(bool is_tied, const std::vector<std::string>& saved) : config(tiny_config()) {
        config.is_tied = is_tied;
        std::vector<TensorShape> shapes = adapter_tensors(config, adapter);
        LlamaConfig untied = config;
        untied.is_tied = false;
        for (TensorShape tensor : llama_tensors(untied)) {
            if (std::ranges::find(saved, tensor.name) != saved.end()) {
                tensor.name = adapter_name(tensor.name);
                shapes.push_back(tensor);
            }
        }
        values = random_values(shapes);
        write_file(folder / "adapter_config.json", exported_adapter_config(adapter, {}, ""));
        write_tensors(folder / "adapter_model.safetensors", values);
        base.emplace(lively_base(config));
        base->set_adapter(std::make_shared<const AdapterFiles>(AdapterFiles::open(folder.path())));
    }
    TrainedWeights weights() const { return {*base, tune, nullptr}; }

    TemporaryFolder folder;
    Tune tune = tiny_tune();
    AdapterConfig adapter = {tune.rank, tune.alpha, 0, tune.targets};
    LlamaConfig config;
    std::vector<NamedValues> values;
    std::optional<BaseWeights> base;
};

std::vector<float> read(const BaseWeights& base, const TensorShape& tensor) {
    std::vector<float> values(static_cast<std::size_t>(tensor.size()));
    base.read(tensor, values);
    return values;
}

std::vector<float> merged(const TrainedWeights& weights, const TensorShape& tensor) {
    std::vector<float> values(static_cast<std::size_t>(tensor.size()));
    weights.read_merged(Stream<Cpu>(2), tensor, values);
    return values;
}

BOOST_AUTO_TEST_CASE(merging_adds_the_product_of_the_factors) {
    Adapted model(false, {});
    for (const TensorShape& tensor : llama_tensors(model.config)) {
        auto expected = read(*model.base, tensor);
        if (const auto pair = lora_pair(tensor, model.adapter)) {
            const auto& a = named(model.values, pair->a.name).values;
            const auto& b = named(model.values, pair->b.name).values;
            for (Index i = 0; i < tensor.size(); ++i) {
                double sum = 0;
                for (Index r = 0; r < model.tune.rank; ++r) {
                    sum +=
                        static_cast<double>(
                            b[static_cast<std::size_t>(i / tensor.columns * model.tune.rank + r)]) *
                        static_cast<double>(
                            a[static_cast<std::size_t>(r * tensor.columns + i % tensor.columns)]);
                }
                expected[static_cast<std::size_t>(i)] += static_cast<float>(1.5 * sum);
            }
        }
        const auto found = merged(model.weights(), tensor);
        for (std::size_t i = 0; i < found.size(); ++i) {
            BOOST_REQUIRE_SMALL(found[i] - expected[i], 2e-5F);
        }
    }
}

std::vector<std::string> modules(const Adapted& model) {
    return saved_modules(model.weights().adapter_tensors());
}

BOOST_AUTO_TEST_CASE(an_adapter_holds_what_is_not_the_bases_own) {
    using Names = std::vector<std::string>;
    BOOST_TEST((modules(Adapted(false, {})) == Names{}));
    BOOST_TEST((modules(Adapted(false, {"lm_head.weight"})) == Names{"lm_head"}));
    BOOST_TEST((modules(Adapted(false, {"model.embed_tokens.weight"})) == Names{"embed_tokens"}));
    BOOST_TEST((modules(Adapted(true, {"model.embed_tokens.weight", "lm_head.weight"})) ==
                Names{"embed_tokens", "lm_head"}));
    // "norm" means each layer whose name ends so: with one norm all are saved
    const Adapted norm(false, {"model.norm.weight"});
    BOOST_TEST((modules(norm) == Names{"input_layernorm", "post_attention_layernorm", "norm"}));
    const auto tensors = norm.weights().adapter_tensors();
    BOOST_TEST(tensors.size() == 2U * 2 * 7 + 5);
    for (const AdapterTensor& tensor : tensors) {
        std::vector<float> found(static_cast<std::size_t>(tensor.source.size()));
        norm.weights().read(tensor.source, found);
        const bool is_given =
            tensor.name == adapter_name("model.norm.weight") || contains(tensor.name, ".lora_");
        auto given = norm.values;
        BOOST_TEST(found == (is_given ? named(given, tensor.name).values
                                      : read(*norm.base, tensor.source)),
                   tensor.name);
    }
}

BOOST_AUTO_TEST_CASE(without_an_adapter_the_base_stays_as_it_is) {
    const BaseWeights base = lively_base(tiny_config());
    const TrainedWeights weights(base, tiny_tune(), nullptr);
    BOOST_TEST(!weights.has_lora());
    for (const TensorShape& tensor : llama_tensors(tiny_config())) {
        BOOST_TEST(merged(weights, tensor) == read(base, tensor));
    }
}

}  // namespace
}  // namespace longlora
