#include "io/exported_config.hpp"

#include <boost/test/unit_test.hpp>

#include "support/model_folder.hpp"

namespace longlora {
namespace {

using test::contains;

LlamaConfig scaled(double factor) {
    LlamaConfig config = parse_llama_config(test::config_text(true), "test");
    config.rope = {"linear", factor};
    config.max_positions = 4096;
    return config;
}

BOOST_AUTO_TEST_CASE(what_is_written_is_read_as_it_was) {
    const LlamaConfig config = scaled(8);
    BOOST_TEST((parse_llama_config(exported_config("", config, "float32"), "new") == config));
    const std::string over =
        exported_config(test::config_text(true), config, "bfloat16");  // of a base
    BOOST_TEST((parse_llama_config(over, "new") == config));
    LlamaConfig plain = config;
    plain.rope = {};
    plain.rope_theta = 5e5;
    plain.bos = -1;
    plain.head_dim = 6;
    BOOST_TEST((parse_llama_config(exported_config("", plain, "float16"), "new") == plain));
}

BOOST_AUTO_TEST_CASE(both_spellings_of_the_scaling_stand_there) {
    const std::string base = R"({"model_type": "llama", "hidden_size": 8, "intermediate_size": 12,
        "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 16, "dtype": "bfloat16",
        "eos_token_id": [2, 7], "rope_scaling": {"type": "linear", "factor": 2.0}, "mine": [1]})";
    LlamaConfig config = parse_llama_config(base, "base");
    config.rope.factor = 8;
    const std::string text = exported_config(base, config, "float16");
    BOOST_TEST(
        contains(text, "\"rope_scaling\": {\n    \"type\": \"linear\",\n    \"factor\": 8.0\n  }"));
    BOOST_TEST(contains(
        text, "\"rope_type\": \"linear\",\n    \"factor\": 8.0,\n    \"rope_theta\": 10000.0"));
    BOOST_TEST(contains(text, "\"rope_theta\": 10000.0,"));
    BOOST_TEST(contains(text, "\"dtype\": \"float16\""));
    BOOST_TEST(contains(text, "\"torch_dtype\": \"float16\""));
    BOOST_TEST(contains(text, "\"mine\": ["));  // what is not known stays
    BOOST_TEST(contains(text, "\"eos_token_id\": [\n    2,\n    7\n  ]"));
    config.rope = {};
    BOOST_TEST(contains(exported_config(base, config, "float16"), "\"rope_scaling\": null"));
}

BOOST_AUTO_TEST_CASE(nesting_of_the_base_is_bounded) {
    std::string base = test::config_text(false);
    base.back() = ',';
    base += "\"deep\": " + std::string(100'000, '[') + std::string(100'000, ']') + "}";
    CHECK_INPUT_ERROR(exported_config(base, scaled(2), "float32"), "nested too deep");
}

BOOST_AUTO_TEST_CASE(an_adapters_configuration_is_read_as_it_was) {
    const AdapterConfig plain = {16, 32, 0.05, {"q_proj", "down_proj"}};
    const std::string text = exported_adapter_config(plain, {"embed_tokens", "norm"}, "/base");
    BOOST_TEST((parse_adapter_config(text, "new") == plain));
    BOOST_TEST(contains(text, "\"lora_alpha\": 32,"));  // an integer, as PEFT wants it
    BOOST_TEST(contains(text, "\"base_model_name_or_path\": \"/base\""));
    const AdapterConfig odd = {3, 4.5, 0, {"v_proj"}};
    const std::string bare = exported_adapter_config(odd, {}, "");
    BOOST_TEST((parse_adapter_config(bare, "new") == odd));
    BOOST_TEST(contains(bare, "\"modules_to_save\": null"));
    BOOST_TEST(contains(bare, "\"base_model_name_or_path\": null"));
}

BOOST_AUTO_TEST_CASE(the_readme_says_how_to_set_the_scaling) {
    const std::string text = exported_adapter_readme(scaled(2.5), "/models/base");
    BOOST_TEST(contains(text, "from_pretrained(\"/models/base\")"));
    BOOST_TEST(contains(text, R"(config.rope_scaling = {"type":"linear","factor":2.5})"));
    BOOST_TEST(contains(text, "--rope.scaling linear --rope.factor 2.5"));
    LlamaConfig plain = scaled(1);
    plain.rope = {};
    BOOST_TEST(contains(exported_adapter_readme(plain, ""), "No rope scaling is set"));
}

}  // namespace
}  // namespace longlora
