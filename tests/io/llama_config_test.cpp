#include "io/llama_config.hpp"

#include <string>

#include <boost/test/unit_test.hpp>

#include "support/files.hpp"

namespace longlora {
namespace {

const std::string sizes = R"("hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 5,
    "num_attention_heads": 8, "vocab_size": 512)";

LlamaConfig parsed(const std::string& fields) {
    return parse_llama_config("{" + fields + "}", "config.json");
}

// The smallest configuration with more fields.
LlamaConfig with(const std::string& fields) { return parsed(sizes + ", " + fields); }

BOOST_AUTO_TEST_CASE(transformers_4_writes) {
    const LlamaConfig config = with(R"("architectures": ["LlamaForCausalLM"], "model_type": "llama",
        "hidden_act": "silu", "num_key_value_heads": 4, "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "rope_scaling": {"type": "linear", "factor": 8},
        "tie_word_embeddings": true, "attention_bias": false, "mlp_bias": false, "pretraining_tp": 2,
        "bos_token_id": 3, "eos_token_id": [7, 8], "torch_dtype": "float16")");
    const LlamaConfig expected = {.layers = 5,
                                  .width = 64,
                                  .heads = 8,
                                  .kv_heads = 4,
                                  .head_dim = 8,
                                  .mlp_width = 172,
                                  .vocabulary = 512,
                                  .max_positions = 4096,
                                  .rms_epsilon = 1e-5,
                                  .rope_theta = 500000,
                                  .rope = {"linear", 8},
                                  .is_tied = true,
                                  .bos = 3,
                                  .eos = 7};
    BOOST_TEST((config == expected));
}

BOOST_AUTO_TEST_CASE(transformers_5_writes) {
    const LlamaConfig config = with(R"("head_dim": 24,
        "rope_parameters": {"rope_type": "linear", "factor": 4.5, "rope_theta": 50000})");
    BOOST_TEST((config.rope == RopeScaling{"linear", 4.5}));
    BOOST_TEST(config.rope_theta == 50000);
    BOOST_TEST(config.head_dim == 24);
    const auto plain =
        with(R"("rope_parameters": {"rope_type": "default", "rope_theta": 20000.0})");
    BOOST_TEST((plain.rope == RopeScaling{"none", 1}));
    BOOST_TEST(plain.rope_theta == 20000);
}

BOOST_AUTO_TEST_CASE(what_is_absent_is_as_in_transformers) {
    for (const auto& config :
         {parsed(sizes),
          with(R"("num_key_value_heads": null, "head_dim": null, "rope_scaling": null,
                                 "rope_parameters": null, "quantization_config": null)")}) {
        const LlamaConfig expected = {.layers = 5,
                                      .width = 64,
                                      .heads = 8,
                                      .kv_heads = 8,
                                      .head_dim = 8,
                                      .mlp_width = 172,
                                      .vocabulary = 512,
                                      .max_positions = 2048,
                                      .rms_epsilon = 1e-6,
                                      .rope_theta = 10000,
                                      .rope = {},
                                      .is_tied = false,
                                      .bos = 1,
                                      .eos = 2};
        BOOST_TEST((config == expected));
    }
    BOOST_TEST(with(R"("bos_token_id": null, "eos_token_id": [])").bos == -1);
    BOOST_TEST(with(R"("bos_token_id": null, "eos_token_id": [])").eos == -1);
    BOOST_TEST(
        with(R"("rope_scaling": {"rope_type": "linear", "type": "x", "factor": 2})").rope.factor ==
        2);
    BOOST_TEST(with(R"("rope_theta": 7, "rope_scaling": {"rope_type": "default"})").rope_theta ==
               7);
}

BOOST_AUTO_TEST_CASE(what_is_not_computed_is_refused_by_key_and_value) {
    CHECK_INPUT_ERROR(with(R"("model_type": "mistral")"),
                      "config.json: \"model_type\" is \"mistral\", but only \"llama\"");
    CHECK_INPUT_ERROR(with(R"("hidden_act": "gelu")"), "\"hidden_act\" is \"gelu\"");
    CHECK_INPUT_ERROR(with(R"("attention_bias": true)"), "\"attention_bias\" is true");
    CHECK_INPUT_ERROR(with(R"("mlp_bias": true)"), "\"mlp_bias\" is true");
    CHECK_INPUT_ERROR(with(R"("quantization_config": {"bits": 4})"), "unquantised");
    CHECK_INPUT_ERROR(
        with(R"("rope_scaling": {"type": "dynamic", "factor": 2})"),
        "config.json, rope_scaling: \"rope_type\" is \"dynamic\", which is not built yet");
    CHECK_INPUT_ERROR(with(R"("rope_parameters": {"rope_type": "llama3", "factor": 2})"),
                      "\"llama3\"");
    CHECK_INPUT_ERROR(with(R"("rope_scaling": {"type": "linear"})"), "\"factor\" is missing");
    CHECK_INPUT_ERROR(with(R"("rope_scaling": {"factor": 2})"), "no \"rope_type\"");
    CHECK_INPUT_ERROR(with(R"("rope_scaling": {"type": "linear", "factor": 0})"), "factor");
    CHECK_INPUT_ERROR(with(R"("rope_scaling": 4)"), "\"rope_scaling\" is 4, but must be an object");
    CHECK_INPUT_ERROR(with(R"("rope_parameters": {"partial_rotary_factor": 0.5})"),
                      "partial_rotary");
}

BOOST_AUTO_TEST_CASE(nonsense_is_refused) {
    CHECK_INPUT_ERROR(parsed(R"("hidden_size": 64)"),
                      "config.json: \"num_hidden_layers\" is missing");
    CHECK_INPUT_ERROR(with(R"("num_hidden_layers": 2)"), "\"num_hidden_layers\" stands twice");
    CHECK_INPUT_ERROR(with(R"("num_key_value_heads": 3)"), "8 attention heads cannot share 3");
    CHECK_INPUT_ERROR(with(R"("num_key_value_heads": 0)"), "key and value heads is 0");
    CHECK_INPUT_ERROR(with(R"("head_dim": 7)"), "head_dim is 7");
    CHECK_INPUT_ERROR(with(R"("head_dim": -8)"), "head_dim is -8");
    CHECK_INPUT_ERROR(with(R"("head_dim": 2147483648)"), "head_dim is 2147483648");
    CHECK_INPUT_ERROR(with(R"("max_position_embeddings": "many")"),
                      "is \"many\", but must be an integer");
    CHECK_INPUT_ERROR(with(R"("max_position_embeddings": 18446744073709551615)"),
                      "must be an integer");
    CHECK_INPUT_ERROR(with(R"("rms_norm_eps": 0)"), "rms_norm_eps");
    CHECK_INPUT_ERROR(with(R"("rope_theta": -1)"), "rope_theta");
    CHECK_INPUT_ERROR(with(R"("tie_word_embeddings": 1)"), "must be true or false");
    CHECK_INPUT_ERROR(with(R"("eos_token_id": "x")"), "token id");
    CHECK_INPUT_ERROR(parse_llama_config("{\"a\": tru}", "config.json"),
                      "config.json is not valid JSON");
    CHECK_INPUT_ERROR(parse_llama_config("", "config.json"), "config.json is not valid JSON");
    CHECK_INPUT_ERROR(
        parsed(
            R"("hidden_size": 65, "intermediate_size": 1, "num_hidden_layers": 1, "num_attention_heads": 8,
                  "vocab_size": 1)"),
        "not a multiple");
    CHECK_INPUT_ERROR(
        parsed(
            R"("hidden_size": 64, "intermediate_size": 1, "num_hidden_layers": 1, "num_attention_heads": 0,
                  "vocab_size": 1)"),
        "not a multiple");
    CHECK_INPUT_ERROR(
        parsed(R"("hidden_size": 64, "intermediate_size": 1, "num_hidden_layers": 100000000,
                  "num_attention_heads": 8, "vocab_size": 1)"),
        "number of layers is 100000000");
}

BOOST_AUTO_TEST_CASE(tensors_have_their_names_and_shapes) {
    const auto tensors = llama_tensors(with(R"("num_key_value_heads": 2, "head_dim": 12)"));
    BOOST_TEST(tensors.size() == 3U + 5 * 9);
    BOOST_TEST((tensors.front() == TensorShape{"model.embed_tokens.weight", 512, 64}));
    BOOST_TEST((tensors[1] == TensorShape{"model.layers.0.input_layernorm.weight", 64, 0}));
    BOOST_TEST((tensors[2] == TensorShape{"model.layers.0.self_attn.q_proj.weight", 96, 64}));
    BOOST_TEST((tensors[3] == TensorShape{"model.layers.0.self_attn.k_proj.weight", 24, 64}));
    BOOST_TEST((tensors[5] == TensorShape{"model.layers.0.self_attn.o_proj.weight", 64, 96}));
    BOOST_TEST((tensors[45] == TensorShape{"model.layers.4.mlp.down_proj.weight", 64, 172}));
    BOOST_TEST((tensors.back() == TensorShape{"lm_head.weight", 512, 64}));
    BOOST_TEST(llama_tensors(with(R"("tie_word_embeddings": true)")).back().name ==
               "model.norm.weight");
    BOOST_TEST((TensorShape{"", 3, 0}.size() == 3 && TensorShape{"", 3, 2}.size() == 6));
}

}  // namespace
}  // namespace longlora
