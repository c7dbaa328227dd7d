#include "io/adapter.hpp"

#include <boost/test/unit_test.hpp>

#include "support/model_folder.hpp"

namespace longlora {
namespace {

using test::NamedValues;
using test::TemporaryFolder;

const std::string embedding = "base_model.model.model.embed_tokens.weight";
const std::string head = "base_model.model.lm_head.weight";
const std::string q_a = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";

AdapterConfig with(const std::string& fields) {
    return parse_adapter_config(R"({"peft_type": "LORA", "target_modules": ["o_proj", "q_proj"])" +
                                    (fields.empty() ? "" : ", " + fields) + "}",
                                "adapter_config.json");
}

LlamaConfig model(bool is_tied = false) {
    return parse_llama_config(test::config_text(is_tied), "test");
}

const std::string config_text = R"({"peft_type": "LORA", "r": 3, "lora_alpha": 6,
    "target_modules": ["down_proj", "k_proj"], "modules_to_save": ["embed_tokens"]})";

std::vector<NamedValues> lora_values() {
    return test::random_values(adapter_tensors(model(), parse_adapter_config(config_text, "test")));
}

AdapterFiles written(const TemporaryFolder& folder, const std::vector<NamedValues>& tensors) {
    test::write_file(folder / "adapter_config.json", config_text);
    test::write_tensors(folder / "adapter_model.safetensors", tensors);
    return AdapterFiles::open(folder.path());
}

BOOST_AUTO_TEST_CASE(what_peft_writes_is_read) {
    const AdapterConfig config =
        with(R"("r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "bias": "none",
        "task_type": "CAUSAL_LM", "base_model_name_or_path": "base", "fan_in_fan_out": false,
        "inference_mode": true, "init_lora_weights": true, "layers_to_transform": null,
        "modules_to_save": ["embed_tokens"], "rank_pattern": {}, "alpha_pattern": {}, "use_dora": false,
        "use_rslora": false, "loftq_config": {}, "megatron_config": null)");
    const AdapterConfig expected = {16, 32, 0.05, {"q_proj", "o_proj"}};
    BOOST_TEST((config == expected));
    BOOST_TEST((with("") == AdapterConfig{8, 8, 0, {"q_proj", "o_proj"}}));
}

BOOST_AUTO_TEST_CASE(other_adapters_are_refused_by_key_and_value) {
    CHECK_INPUT_ERROR(with(R"("use_dora": true)"), "adapter_config.json: \"use_dora\" is true");
    CHECK_INPUT_ERROR(with(R"("use_rslora": true)"), "\"use_rslora\" is true");
    CHECK_INPUT_ERROR(with(R"("rank_pattern": {"q_proj": 4})"), "\"rank_pattern\" is an object");
    CHECK_INPUT_ERROR(with(R"("alpha_pattern": {"q_proj": 4})"), "\"alpha_pattern\"");
    CHECK_INPUT_ERROR(with(R"("layers_to_transform": [0])"), "\"layers_to_transform\" is a list");
    CHECK_INPUT_ERROR(with(R"("bias": "all")"), "\"bias\" is \"all\"");
    CHECK_INPUT_ERROR(with(R"("init_lora_weights": "pissa")"), "changes the base model");
    CHECK_INPUT_ERROR(with(R"("r": 0)"), "\"r\" is 0");
    CHECK_INPUT_ERROR(with(R"("lora_alpha": -1)"), "\"lora_alpha\" must be above 0");
    CHECK_INPUT_ERROR(with(R"("lora_dropout": 1)"), "\"lora_dropout\"");
    const auto parse = [](const std::string& text) { return parse_adapter_config(text, "x.json"); };
    CHECK_INPUT_ERROR(parse(R"({"peft_type": "IA3"})"), "\"peft_type\" is \"IA3\"");
    CHECK_INPUT_ERROR(parse(R"({"target_modules": ".*_proj"})"), "is the pattern \".*_proj\"");
    CHECK_INPUT_ERROR(parse(R"({"target_modules": ["q_proj", "lm_head"]})"), "holds \"lm_head\"");
    CHECK_INPUT_ERROR(parse(R"({"target_modules": []})"), "must list some of q_proj");
    CHECK_INPUT_ERROR(parse("{}"), "must list some of q_proj");
    CHECK_INPUT_ERROR(parse("{"), "x.json is not valid JSON");
}

BOOST_AUTO_TEST_CASE(names_and_shapes_are_pefts) {
    const auto tensors = adapter_tensors(model(), {3, 6, 0, {"k_proj", "down_proj"}});
    const std::string layer = "base_model.model.model.layers.1.";
    BOOST_TEST(tensors.size() == 8U);
    BOOST_TEST((tensors[4] == TensorShape{layer + "self_attn.k_proj.lora_A.weight", 3, 8}));
    BOOST_TEST((tensors[5] == TensorShape{layer + "self_attn.k_proj.lora_B.weight", 4, 3}));
    BOOST_TEST((tensors[6] == TensorShape{layer + "mlp.down_proj.lora_A.weight", 3, 12}));
    BOOST_TEST((tensors[7] == TensorShape{layer + "mlp.down_proj.lora_B.weight", 8, 3}));
}

BOOST_AUTO_TEST_CASE(an_adapter_is_read_with_its_saved_modules) {
    auto tensors = lora_values();
    tensors.push_back({{embedding, 16, 8}, std::vector<float>(128, 2)});
    tensors.push_back(
        {{adapter_name("model.layers.0.input_layernorm.weight"), 8, 0}, std::vector<float>(8, 3)});
    const TemporaryFolder folder;
    const AdapterFiles adapter = written(folder, tensors);
    adapter.check(model());
    BOOST_TEST(adapter.config().rank == 3);
    BOOST_TEST((adapter.has(embedding) && !adapter.has(head)));
    for (const auto& tensor : tensors) {
        std::vector<float> values(tensor.values.size());
        adapter.read(tensor.shape, values);
        BOOST_TEST(values == tensor.values);
    }
    std::vector<float> row(8);
    adapter.read({embedding, 16, 8}, {15, 16}, row);
    CHECK_INPUT_ERROR(adapter.read({embedding, 17, 8}, {15, 16}, row),
                      "[16, 8] instead of [17, 8]");
    CHECK_INPUT_ERROR(adapter.check(model(true)), "holds only one of");
}

BOOST_AUTO_TEST_CASE(a_tied_head_is_saved_twice_and_equal) {
    auto tensors = lora_values();
    tensors.push_back({{embedding, 16, 8}, std::vector<float>(128, 2)});
    tensors.push_back({{head, 16, 8}, std::vector<float>(128, 2)});
    const TemporaryFolder folder;
    written(folder, tensors).check(model(true));
    written(folder, tensors).check(model(false));
    tensors.back().values[3] = 1;
    const TemporaryFolder other;
    CHECK_INPUT_ERROR(written(other, tensors).check(model(true)),
                      "differ; the model's head is tied");
}

BOOST_AUTO_TEST_CASE(what_does_not_fit_is_listed) {
    auto tensors = lora_values();
    tensors[0].shape.name = q_a;
    tensors[1].shape = {tensors[1].shape.name, tensors[1].shape.columns, tensors[1].shape.rows};
    tensors.push_back(
        {{adapter_name("model.layers.0.mlp.up_proj.weight"), 12, 8}, std::vector<float>(96)});
    const TemporaryFolder folder;
    const AdapterFiles adapter = written(folder, tensors);
    CHECK_INPUT_ERROR(adapter.check(model()), "k_proj.lora_A.weight is missing");
    CHECK_INPUT_ERROR(adapter.check(model()), "k_proj.lora_B.weight is [3, 4] instead of [4, 3]");
    CHECK_INPUT_ERROR(adapter.check(model()), q_a + " is unexpected");
    CHECK_INPUT_ERROR(adapter.check(model()), "up_proj.weight is unexpected");
}

BOOST_AUTO_TEST_CASE(missing_files_are_named) {
    const TemporaryFolder folder;
    CHECK_INPUT_ERROR(AdapterFiles::open(folder / "nowhere"), "nowhere is not a folder");
    CHECK_INPUT_ERROR(AdapterFiles::open(folder.path()), "cannot open");
    test::write_file(folder / "adapter_config.json", config_text);
    CHECK_INPUT_ERROR(AdapterFiles::open(folder.path()), "has no adapter_model.safetensors");
}

}  // namespace
}  // namespace longlora
