#include "io/model_files.hpp"

#include <set>

#include <boost/test/unit_test.hpp>

#include "io/float16.hpp"
#include "support/model_folder.hpp"

namespace longlora {
namespace {

using test::NamedValues;
using test::TemporaryFolder;

const std::string embedding = "model.embed_tokens.weight";
const std::string head = "lm_head.weight";
const std::string down = "model.layers.1.mlp.down_proj.weight";

std::vector<float> read(const ModelFiles& model, const TensorShape& tensor) {
    std::vector<float> values(static_cast<std::size_t>(tensor.size()));
    model.read(tensor, values);
    return values;
}

ModelFiles written(const TemporaryFolder& folder, bool is_tied,
                   const std::vector<NamedValues>& tensors, const std::string& dtype = "F32") {
    test::write_model(folder.path(), test::config_text(is_tied), tensors, dtype);
    return ModelFiles::open(folder.path());
}

// Even and odd tensors in two files.
void write_shards(const std::filesystem::path& folder, const std::vector<NamedValues>& tensors) {
    std::vector<std::vector<NamedValues>> shards(2);
    std::string map;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        shards[i % 2].push_back(tensors[i]);
        map += (i == 0 ? "" : ",") + ("\"" + tensors[i].shape.name) + "\": \"part-" +
               std::to_string(i % 2) + ".safetensors\"";
    }
    test::write_file(folder / "config.json", test::config_text(false));
    test::write_file(folder / "model.safetensors.index.json",
                     R"({"metadata": {}, "weight_map": {)" + map + "}}");
    test::write_tensors(folder / "part-0.safetensors", shards[0]);
    test::write_tensors(folder / "part-1.safetensors", shards[1]);
}

BOOST_AUTO_TEST_CASE(one_file_is_read_whole_and_by_rows) {
    const TemporaryFolder folder;
    const auto tensors = test::random_model(false);
    const ModelFiles model = written(folder, false, tensors);
    BOOST_TEST(model.check().empty());
    BOOST_TEST(model.config().vocabulary == 16);
    for (const auto& tensor : tensors) {
        BOOST_TEST(model.has(tensor.shape.name));
        BOOST_TEST(read(model, tensor.shape) == tensor.values);
    }
    std::vector<float> rows(3 * 8);
    model.read({embedding, 16, 8}, {5, 8}, rows);
    BOOST_TEST(rows ==
               std::vector<float>(tensors[0].values.begin() + 40, tensors[0].values.begin() + 64));
    BOOST_TEST(!model.has("model.layers.2.mlp.down_proj.weight"));
    CHECK_INPUT_ERROR(model.read({down, 12, 8}, rows), "[8, 12] instead of [12, 8]");
    CHECK_INPUT_ERROR(model.read({"x", 1, 0}, rows), "has no tensor 'x'");
    CHECK_INPUT_ERROR(model.digest("x"), "has no tensor 'x'");
}

BOOST_AUTO_TEST_CASE(half_precision_is_widened) {
    const auto tensors = test::random_model(false);
    for (const std::string& dtype : std::vector<std::string>{"F16", "BF16"}) {
        const TemporaryFolder folder;
        const ModelFiles model = written(folder, false, tensors, dtype);
        BOOST_TEST(model.check().empty());
        const auto values = read(model, {down, 8, 12});
        for (std::size_t i = 0; i < values.size(); ++i) {
            const float exact = tensors[18].values[i];
            BOOST_TEST(values[i] == (dtype == "F16" ? float_from_f16(f16_from_float(exact))
                                                    : float_from_bf16(bf16_from_float(exact))));
        }
    }
}

BOOST_AUTO_TEST_CASE(shards_and_embedding_give_the_same_model) {
    const TemporaryFolder folder;
    const auto tensors = test::random_model(false);
    const ModelFiles single = written(folder, false, tensors);
    write_shards(folder / "shards", tensors);
    const ModelFiles shards = ModelFiles::open(folder / "shards");
    const std::string bytes = test::read_file(folder / "model.safetensors");
    const ModelFiles embedded =
        ModelFiles::embedded(test::config_text(false), std::as_bytes(std::span(bytes)));
    for (const auto* model : {&shards, &embedded}) {
        BOOST_TEST(model->check().empty());
        BOOST_TEST((model->config() == single.config()));
        BOOST_TEST(model->fingerprint() == single.fingerprint());
        BOOST_TEST(read(*model, {down, 8, 12}) == read(single, {down, 8, 12}));
    }
    CHECK_INPUT_ERROR(ModelFiles::embedded("{}", {}), "built-in model config.json");
    CHECK_INPUT_ERROR(ModelFiles::embedded(test::config_text(false), {}),
                      "built-in model model.safetensors");
}

BOOST_AUTO_TEST_CASE(fingerprint_notices_any_change) {
    std::set<std::uint64_t> seen;
    const auto note = [&](const std::vector<NamedValues>& tensors,
                          const std::string& dtype = "F32") {
        const TemporaryFolder folder;
        seen.insert(written(folder, false, tensors, dtype).fingerprint());
    };
    auto tensors = test::random_model(false);
    note(tensors);
    note(tensors);
    BOOST_TEST(seen.size() == 1U);
    note(tensors, "BF16");
    test::named(tensors, down).values.back() *= 1 + 1e-6F;
    note(tensors);
    std::swap(test::named(tensors, "model.layers.0.input_layernorm.weight").values,
              test::named(tensors, "model.layers.1.input_layernorm.weight").values);
    note(tensors);
    BOOST_TEST(seen.size() == 4U);
}

BOOST_AUTO_TEST_CASE(fingerprint_notices_what_counts_in_the_configuration) {
    const TemporaryFolder folder;
    written(folder, false, test::random_model(false));
    const std::string bytes = test::read_file(folder / "model.safetensors");
    const std::string config = test::config_text(false);
    const auto fingerprint = [&](const std::string& more) {
        return ModelFiles::embedded(config.substr(0, config.rfind('}')) + more + "}",
                                    std::as_bytes(std::span(bytes)))
            .fingerprint();
    };
    const std::set<std::uint64_t> seen{
        fingerprint(""), fingerprint(R"(, "rope_theta": 20000)"),
        fingerprint(R"(, "rms_norm_eps": 1e-5)"),
        fingerprint(R"(, "rope_scaling": {"rope_type": "linear", "factor": 2})")};
    BOOST_TEST(seen.size() == 4U);
    BOOST_TEST(fingerprint(R"(, "max_position_embeddings": 4096)") == fingerprint(""));
}

BOOST_AUTO_TEST_CASE(a_tied_head_has_two_names) {
    auto tensors = test::random_model(true);
    const TemporaryFolder first;
    const ModelFiles by_embedding = written(first, true, tensors);
    tensors[0].shape.name = head;
    const TemporaryFolder second;
    const ModelFiles by_head = written(second, true, tensors);
    tensors.push_back({{embedding, 16, 8}, tensors[0].values});
    const TemporaryFolder third;
    const ModelFiles by_both = written(third, true, tensors);
    for (const auto* model : {&by_embedding, &by_head, &by_both}) {
        BOOST_TEST(model->check().empty());
        BOOST_TEST((model->has(embedding) && model->has(head)));
        BOOST_TEST(read(*model, {embedding, 16, 8}) == tensors[0].values);
        BOOST_TEST(read(*model, {head, 16, 8}) == tensors[0].values);
        BOOST_TEST(model->digest(head) == by_embedding.digest(embedding));
        BOOST_TEST(model->fingerprint() == by_embedding.fingerprint());
    }
    tensors.back().values[5] += 1;
    const TemporaryFolder fourth;
    CHECK_INPUT_ERROR(written(fourth, true, tensors).check(), "holds both and they differ");
}

BOOST_AUTO_TEST_CASE(an_untied_head_must_be_there) {
    auto tensors = test::random_model(true);  // without lm_head.weight
    const TemporaryFolder folder;
    const ModelFiles model = written(folder, false, tensors);
    BOOST_TEST(!model.has(head));
    CHECK_INPUT_ERROR(model.check(),
                      "lm_head.weight is missing although config.json does not tie it");
}

BOOST_AUTO_TEST_CASE(check_lists_all_faults) {
    auto tensors = test::random_model(false);
    test::named(tensors, down).shape = {down, 12, 8};
    test::named(tensors, "model.norm.weight").shape.name = "model.final_norm.weight";
    tensors.push_back({{"model.layers.0.self_attn.q_proj.bias", 8, 0}, std::vector<float>(8)});
    const TemporaryFolder folder;
    const ModelFiles model = written(folder, false, tensors);
    for (const std::string& part : std::vector<std::string>{
             down + " is [12, 8] instead of [8, 12]", "model.norm.weight is missing",
             "model.final_norm.weight is unexpected", "q_proj.bias is unexpected",
             folder.path().string()}) {
        CHECK_INPUT_ERROR(model.check(), part);
    }
    for (auto& tensor : tensors) {
        tensor.shape.name = tensor.shape.name.substr(tensor.shape.name.find('.') + 1);
    }
    const TemporaryFolder other;
    CHECK_INPUT_ERROR(written(other, false, tensors).check(), "names without \"model.\" in front");
    CHECK_INPUT_ERROR(ModelFiles::open(other.path()).check(), " more");
    tensors = test::random_model(false);
    tensors.push_back({{"model.layers.0.self_attn.rotary_emb.inv_freq", 1, 0}, {1.0F}});
    const TemporaryFolder third;
    const auto warnings = written(third, false, tensors).check();
    BOOST_TEST(warnings.size() == 1U);
    BOOST_TEST(test::contains(warnings.at(0), "inv_freq is left out"));
}

BOOST_AUTO_TEST_CASE(missing_files_are_named) {
    const TemporaryFolder folder;
    const auto open = [&](const std::string& name) { return ModelFiles::open(folder / name); };
    CHECK_INPUT_ERROR(open("nowhere"), "nowhere is not a folder");
    CHECK_INPUT_ERROR(open(""), "cannot open " + (folder / "config.json").string());
    test::write_file(folder / "bare/config.json", test::config_text(false));
    CHECK_INPUT_ERROR(open("bare"), "has neither model.safetensors nor");
    const auto tensors = test::random_model(false);
    write_shards(folder / "shards", tensors);
    std::filesystem::rename(folder / "shards/part-1.safetensors", folder / "shards/kept");
    CHECK_INPUT_ERROR(open("shards"), "part-1.safetensors is missing, but");
    std::filesystem::copy(folder / "shards/part-0.safetensors",
                          folder / "shards/part-1.safetensors");
    CHECK_INPUT_ERROR(open("shards"), "part-1.safetensors has no tensor '");
    const auto index = folder / "shards/model.safetensors.index.json";
    test::write_file(index, R"({"weight_map": {"a": "../part-0.safetensors"}})");
    CHECK_INPUT_ERROR(open("shards"), "not the name of a file beside the index");
    test::write_file(index, R"({"weight_map": {"a": 3}})");
    CHECK_INPUT_ERROR(open("shards"), "\"a\" is 3, but must be a string");
    test::write_file(index, R"({"weight_map": []})");
    CHECK_INPUT_ERROR(open("shards"), "has no \"weight_map\"");
    test::write_file(index, "{");
    CHECK_INPUT_ERROR(open("shards"), "index.json is not valid JSON");
}

BOOST_AUTO_TEST_CASE(real_models_are_whole) {
    for (const std::string& name : std::vector<std::string>{"stories260k", "tinystories-656k"}) {
        const auto folder = test::shared_data("models/" + name);
        if (folder.empty()) {
            continue;
        }
        const ModelFiles model = ModelFiles::open(folder);
        BOOST_TEST(model.check().empty());
        BOOST_TEST(model.config().is_tied);
        const auto norm = read(model, {"model.norm.weight", model.config().width, 0});
        BOOST_TEST(norm.at(0) > 0);
        BOOST_TEST(model.has(embedding));
        BOOST_TEST(model.digest(embedding) == model.digest(head));
        BOOST_TEST(model.fingerprint() != 0U);
    }
}

}  // namespace
}  // namespace longlora
