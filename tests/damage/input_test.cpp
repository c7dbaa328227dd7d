#include <array>

#include <boost/test/unit_test.hpp>
#include <sentencepiece_trainer.h>

#include "data/token_file.hpp"
#include "data/tokenizer.hpp"
#include "io/adapter.hpp"
#include "io/model_files.hpp"
#include "options/invocation.hpp"
#include "support/damage.hpp"
#include "support/files.hpp"
#include "support/model_folder.hpp"

// Files without checksums: read, or refused by an Error for the user; nothing else.
namespace longlora {
namespace {

using test::Damage;
using test::for_each_damage;
using test::read_file;
using test::TemporaryFolder;
using test::write_damaged;

template <class Read>
void damage_input(const std::string& path, const Read& read) {
    int refused = 0;
    for_each_damage(read_file(path), 500, [&](const Damage& damage) {
        write_damaged(path, damage);
        try {
            read();
        } catch (const Error& error) {
            BOOST_TEST((error.code() == ExitCode::bad_input), error.what());
            ++refused;
        }
    });
    BOOST_TEST_MESSAGE(path << ": " << refused << " refused");
}

void read_model(const std::string& folder) {
    const ModelFiles files = ModelFiles::open(folder);
    files.check();
    for (const TensorShape& tensor : llama_tensors(files.config())) {
        std::vector<float> values(static_cast<std::size_t>(tensor.size()));
        files.read(tensor, values);
    }
    files.fingerprint();
}

BOOST_AUTO_TEST_CASE(safetensors) {
    const TemporaryFolder folder;
    test::write_model(folder.path(), test::config_text(false), test::random_model(false));
    damage_input((folder / "model.safetensors").string(),
                 [&] { read_model(folder.path().string()); });
}

BOOST_AUTO_TEST_CASE(config_json) {
    const TemporaryFolder folder;
    test::write_model(folder.path(), test::config_text(false), test::random_model(false));
    damage_input((folder / "config.json").string(), [&] { read_model(folder.path().string()); });
}

BOOST_AUTO_TEST_CASE(adapter_config_json) {
    const TemporaryFolder folder;
    const std::string path = (folder / "adapter_config.json").string();
    test::write_file(path, R"({"peft_type": "LORA", "r": 8, "lora_alpha": 16, "lora_dropout": 0.05,
        "target_modules": ["q_proj", "v_proj"], "bias": "none", "task_type": "CAUSAL_LM"})");
    damage_input(path, [&] { parse_adapter_config(read_file(path), path); });
}

BOOST_AUTO_TEST_CASE(npy) {
    const TemporaryFolder folder;
    const std::string path = (folder / "tokens.npy").string();
    std::string header = "{'descr': '<i4', 'fortran_order': False, 'shape': (64,), }";
    header.resize(118 - 1, ' ');
    std::string tokens(256, '\0');
    for (std::size_t t = 0; t < 64; ++t) {
        tokens[4 * t] = static_cast<char>(t);
    }
    using namespace std::string_literals;
    test::write_file(path, "\x93NUMPY\x01\x00\x76\x00"s + header + "\n" + tokens);
    damage_input(path, [&] {
        const TokenFile file(path, 100);
        std::vector<std::int32_t> all(static_cast<std::size_t>(file.size()));
        file.read({0, file.size()}, all);
    });
}

BOOST_AUTO_TEST_CASE(tokenizer_model) {
    const TemporaryFolder folder;
    const auto text = test::write_file(folder / "text.txt",
                                       "Once upon a time there was a little girl who sang.\n"
                                       "She sang all day long, and the birds sang with her.\n");
    const std::string prefix = (folder / "small").string();
    const auto status = sentencepiece::SentencePieceTrainer::Train(
        "--minloglevel=2 --model_type=bpe --vocab_size=300 --byte_fallback=true "
        "--hard_vocab_limit=false --input=" +
        text.string() + " --model_prefix=" + prefix);
    BOOST_REQUIRE_MESSAGE(status.ok(), status.ToString());
    damage_input(prefix + ".model", [&] {
        const Tokenizer tokenizer = Tokenizer::sentencepiece(prefix + ".model");
        tokenizer.decode(tokenizer.encode("A little bird sang.\n\x01\xc3\xbc"));
    });
}

BOOST_AUTO_TEST_CASE(ini) {
    const TemporaryFolder folder;
    const std::string path = (folder / "run.ini").string();
    test::write_file(path,
                     "# a run\n[train]\nsteps = 100\nlearning_rate = 2e-5\n\n[attention]\n"
                     "group = 1024\npattern = s2\n[evaluate]\ncontexts = 256,512\n");
    damage_input(path, [&] {
        const std::array words{"longlora_hpc", "train", "--config", path.c_str()};
        parse(static_cast<int>(words.size()), words.data(), "");
    });
}

}  // namespace
}  // namespace longlora
