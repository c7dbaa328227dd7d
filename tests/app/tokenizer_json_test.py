"""`prepare` with a tokenizer.json: the ids that Hugging Face's library gives (tests/oracle/make_tokenizers.py), for every kind of
tokenizer that is read; of others the message says what it is."""

import copy
import json

import h5py

import program
from refusal import RefusalTest

import cases  # of tests/oracle, which program puts on the path

STORED = json.loads((program.ROOT / "tests/oracle/tokenizers.json").read_text())
BEGIN, END = STORED["special"][:2]


class TokenizerJson(RefusalTest):
    def write(self, tokenizer, settings=None):
        """A model's folder that has no tokenizer.model."""
        folder = self.folder / "model"
        if not folder.exists():
            case = cases.Case("tokenizer", tokens=64, vocabulary=512)
            cases.write_model(case, cases.build(case), folder)
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
        if settings is not None:
            (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        return folder

    def prepared(self, texts, **options):
        """The tokens of each text, a file each; and the attributes."""
        text = self.folder / "text"
        text.mkdir(exist_ok=True)
        for i, content in enumerate(texts):
            (text / f"{i:03}.txt").write_bytes(content.encode())
        output = self.folder / "tokens.h5"
        result = program.run(["prepare"], {"prepare.input": text, "prepare.output": output, **options}, 0)
        self.assert_code(result, 0)
        with h5py.File(output) as file:
            tokens, ends = file["tokens"][:].tolist(), file["documents"][:].tolist()
            return tokens, ends, dict(file.attrs)

    def test_ids(self):
        for case in STORED["cases"]:
            with self.subTest(case["name"]):
                added = {token["content"]: token["id"] for token in case["tokenizer"]["added_tokens"]}
                begin, end = added[BEGIN], added[END]
                folder = self.write(case["tokenizer"], {"bos_token": BEGIN, "eos_token": {"content": END}})
                tokens, _, attributes = self.prepared(STORED["texts"], **{"model.path": folder})
                expected = [[begin, *ids, end] for ids in case["ids"]]
                self.assertEqual(tokens, [token for ids in expected for token in ids])

    def test_without_bos_and_eos(self):
        case = STORED["cases"][0]
        path = self.write(case["tokenizer"]) / "tokenizer.json"
        tokens, _, attributes = self.prepared(STORED["texts"], **{"prepare.tokenizer": path})
        self.assertEqual(tokens, [token for ids in case["ids"] for token in ids])
        self.assertIn("'tokenizer.json'", repr(attributes))

    def test_another_tokenizer_is_told(self):
        first, second = STORED["cases"][0], STORED["cases"][2]
        folder = self.write(first["tokenizer"])
        self.prepared(STORED["texts"], **{"model.path": folder})
        self.assertEqual(self.warnings_about_tokenizers(folder), [])
        self.write(second["tokenizer"])
        self.assertEqual(len(self.warnings_about_tokenizers(folder)), 1)

    def warnings_about_tokenizers(self, folder):
        options = {"model.path": folder, "data.train": self.folder / "tokens.h5", "sequence.length": 64, "attention.group": 16}
        result = program.run(["train", "--dry-run"], options, 0, cwd=self.folder)
        self.assert_code(result, 0)
        return [line for line in result.warnings if "was prepared with another tokenizer than" in line]

    def test_others_are_refused(self):
        text = self.folder / "text.txt"
        text.write_text("Call me Ishmael.")
        good = STORED["cases"][0]["tokenizer"]

        def refuse(sentence, change):
            tokenizer = copy.deepcopy(good)
            change(tokenizer)
            folder = self.write(tokenizer)
            self.assert_refused(sentence, {"prepare.input": text, "prepare.output": "tokens.h5", "model.path": folder},
                                ["prepare"], ranks=(0,))

        refuse("a model that is not BPE is not supported", lambda j: j["model"].update(type="WordPiece"))
        refuse("the normalizer NFKC is not supported", lambda j: j.update(normalizer={"type": "NFKC"}))
        refuse("the pre-tokenizer Digits is not supported", lambda j: j.update(pre_tokenizer={"type": "Digits"}))
        refuse("splits text by a pattern that is not understood",
               lambda j: j["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex="(unclosed"))
        refuse("the merge .* is of tokens that are not in vocab", lambda j: j["model"]["merges"].append(["nothing", "at all"]))
        refuse("byte 97 is not in vocab", lambda j: j["model"].update(
            vocab={t: i for t, i in j["model"]["vocab"].items() if t != "a"},
            merges=[m for m in j["model"]["merges"] if "a" not in "".join(m)]))
        refuse("an id of a token is 9000000000000", lambda j: j["added_tokens"].append({"content": "<s>", "id": 9 * 10**12}))
        refuse("the added token '<s>' with lstrip is not supported",
               lambda j: j["added_tokens"].append({"content": "<s>", "id": 500, "lstrip": True}))

    def test_text_that_is_not_utf8(self):
        folder = self.write(STORED["cases"][0]["tokenizer"])
        (self.folder / "text.txt").write_bytes(b"caf\xe9 in Latin-1")
        self.assert_refused("UTF-8", {"prepare.input": self.folder / "text.txt", "prepare.output": "tokens.h5",
                                      "model.path": folder}, ["prepare"], ranks=(0,))


if __name__ == "__main__":
    program.main()
