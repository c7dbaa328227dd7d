"""Tokens from any kind of file are the same tokens; prepare writes what it should; prompts are no labels."""

import contextlib
import json

import h5py
import numpy as np

import program
from program import ProgramTest

import cases  # of tests/oracle, which program puts on the path

LENGTH = 64
BYTES_VOCABULARY = 258  # prepare.tokenizer bytes: 256 values, BOS, EOS
BOS, EOS = 256, 257
DIGEST_OF_NOTHING = "2d06800538d394c2"  # XXH3 of no bytes, as xxhash publishes it
RUN = {**program.TINY, "sequence.length": LENGTH, "attention.group": 16, "train.batch": 2, "train.steps": 3,
       "train.learning_rate": 1e-2, "train.warmup_steps": 1}


def write_token_file(path, tokens, documents=None, prompt_ends=None):
    """tokens.h5 as the architecture describes it."""
    with h5py.File(path, "w") as file:
        file["tokens"] = tokens.astype(np.uint16)
        file["documents"] = np.array([0, len(tokens)] if documents is None else documents, np.uint64)
        if prompt_ends is not None:
            file["prompt_ends"] = np.array(prompt_ends, np.uint64)
    return path


def tokens_of(text):
    return [BOS, *text.encode(), EOS]


class Formats(ProgramTest):
    def losses(self, data, **others):
        folder = self.folder / f"run-{data.name}"
        program.train({**RUN, "data.train": data, "run.directory": folder, **others}, 2)
        return program.read_steps(folder / "log.h5")["loss"].tolist()

    def test_same_losses(self):
        tokens = program.random_tokens(8 * (LENGTH + 1) + 5)  # the rest at the end is left out
        np.save(self.folder / "tokens.npy", tokens)
        tokens.astype(np.uint16).tofile(self.folder / "tokens.bin")
        write_token_file(self.folder / "tokens.h5", tokens)
        expected = self.losses(self.folder / "tokens.npy")
        self.assertEqual(len(set(expected)), 3)
        self.assertEqual(self.losses(self.folder / "tokens.bin"), expected)
        self.assertEqual(self.losses(self.folder / "tokens.h5"), expected)

    def test_wide_vocabulary(self):
        """Beyond 65,536 entries a .bin holds uint32."""
        tokens = program.random_tokens(8 * (LENGTH + 1), 70000)
        np.save(self.folder / "tokens.npy", tokens)
        tokens.astype(np.uint32).tofile(self.folder / "tokens.bin")
        wide = {"model.vocabulary": 70000, "model.width": 8, "model.heads": 2, "model.kv_heads": 2, "train.steps": 1}
        self.assertEqual(self.losses(self.folder / "tokens.npy", **wide), self.losses(self.folder / "tokens.bin", **wide))


class Prepare(ProgramTest):
    def prepare(self, *inputs, ranks=0):
        output = self.folder / "tokens.h5"
        result = program.run(["prepare"], {"prepare.input": ",".join(map(str, inputs)), "prepare.output": output,
                                           "prepare.tokenizer": "bytes"}, ranks)
        self.assert_code(result, 0)
        with h5py.File(output, "r") as file:
            attributes = {name: value.decode() if isinstance(value, bytes) else value
                          for name, value in file.attrs.items()}
            return {name: dataset[:] for name, dataset in file.items()}, attributes

    def test_texts_come_back(self):
        texts = {"a.txt": "Call me Ishmael.\n", "deep/c.txt": "",
                 "b.txt": "Zwölf Boxkämpfer jagen Viktor\nquer über den großen Sylter Deich — 鯨 🐳"}
        texts = dict(sorted(texts.items()))  # as a folder's files are read
        (self.folder / "texts" / "deep").mkdir(parents=True)
        for name, text in texts.items():
            (self.folder / "texts" / name).write_text(text)
        lines = self.folder / "more.jsonl"
        lines.write_text("".join(json.dumps({"text": text, "other": 1}) + "\n" for text in ("one", "naïve\ttwo")))
        found, attributes = self.prepare(self.folder / "texts", lines, ranks=3)
        expected = [tokens_of(text) for text in [*texts.values(), "one", "naïve\ttwo"]]
        self.assertEqual(found["tokens"].tolist(), sum(expected, []))
        self.assertEqual(found["documents"].tolist(), [0, *np.cumsum([len(document) for document in expected])])
        self.assertNotIn("prompt_ends", found)
        self.assertEqual((found["tokens"].dtype, found["documents"].dtype), (np.uint16, np.uint64))
        self.assertEqual(attributes["tokenizer"], "bytes")
        self.assertEqual(attributes["vocabulary_size"], BYTES_VOCABULARY)

    def test_prompts(self):
        pairs = [("Who?", " Ishmael."), ("", "no prompt"), ("Was jagt er? 鯨", "")]
        lines = self.folder / "pairs.jsonl"
        lines.write_text("".join(json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in pairs))
        found, _ = self.prepare(lines)
        self.assertEqual(found["tokens"].tolist(), sum((tokens_of(p + c) for p, c in pairs), []))
        starts = found["documents"][:-1]
        lengths = (found["prompt_ends"] - starts).tolist()
        self.assertEqual(lengths, [1 + len(p.encode()) if p else 0 for p, _ in pairs])

    def test_training_on_it(self):
        text = self.folder / "text.txt"
        text.write_text("It was the best of times, it was the worst of times. " * 20)
        found, _ = self.prepare(text)
        np.save(self.folder / "tokens.npy", found["tokens"].astype(np.int32))
        losses = []
        for data in ("tokens.h5", "tokens.npy"):
            folder = self.folder / f"run-{data}"
            program.train({**RUN, "model.vocabulary": BYTES_VOCABULARY, "data.train": self.folder / data,
                           "run.directory": folder})
            losses.append(program.read_steps(folder / "log.h5")["loss"].tolist())
        self.assertEqual(losses[0], losses[1])


class Tokenizers(ProgramTest):
    """Ids of another tokenizer than the base model's mean other words: whoever trains on them is told."""

    def warnings(self, digest, model):
        data = write_token_file(self.folder / "tokens.h5", program.random_tokens(8 * (LENGTH + 1)))
        with h5py.File(data, "a") as file:
            file.attrs["tokenizer_digest"] = digest
        results = [program.run(["train", "--dry-run"], {"model.path": model, "data.train": data, "sequence.length": LENGTH,
                                                        "attention.group": 16}, 2),
                   program.run(["evaluate"], {"model.path": model, "data.validation": data,
                                              "evaluate.contexts": LENGTH, "run.directory": self.folder / "none"}, 2)]
        for result in results:
            self.assert_code(result, 0)
        return [[line for line in result.warnings if "tokenizer" in line] for result in results]

    def test_another_tokenizer_is_told(self):
        case, model = cases.Case("tokenizers", tokens=LENGTH), self.folder / "model"
        cases.write_model(case, cases.build(case), model)
        self.assertEqual(self.warnings("0" * 16, model), [[], []])  # the model has none
        (model / "tokenizer.model").write_bytes(b"")
        for found in self.warnings("0" * 16, model):
            self.assertEqual(len(found), 1)
            self.assertRegex(found[0], "tokens.h5 was prepared with another tokenizer than .*tokenizer.model.*prepare")
        self.assertEqual(self.warnings(DIGEST_OF_NOTHING, model), [[], []])
        self.warnings("0" * 16, model)  # leaves such tokens
        # Random weights have no tokenizer; one that lies where the program is started is somebody else's.
        with contextlib.chdir(model):
            result = program.run(["train", "--dry-run"], {**RUN, "data.train": self.folder / "tokens.h5"}, 1)
        self.assert_code(result, 0)
        self.assertNotIn("another tokenizer", str(result.warnings))


class Prompts(ProgramTest):
    """Two documents share a row. The loss is a mean over labels, so with the prompt of the one or of the other masked,
    mean x labels of the two must add up to those of the whole."""

    def loss(self, name, tokens, documents, prompt_ends, ranks=1, **layout):
        data = write_token_file(self.folder / f"{name}.h5", tokens, documents, prompt_ends)
        dump = self.folder / f"{name}-gradients.h5"
        program.train({**RUN, "train.steps": 1, "train.batch": 1, "data.train": data, "train.dump_gradients": dump,
                       "run.directory": self.folder / f"run-{name}", **layout}, ranks)
        return program.read_gradients(dump)

    def test_labels_are_counted(self):
        tokens, end, border = program.random_tokens(LENGTH + 1), LENGTH + 1, 23
        documents = [0, border, end]
        whole, d_whole = self.loss("whole", tokens, documents, None)
        # A prompt that ends where its document begins masks nothing. Token 0 is no label.
        first, d_first = self.loss("first", tokens, documents, [0, end])
        second, d_second = self.loss("second", tokens, documents, [border, border])
        labels_first, labels_second = border - 1, end - border
        self.assert_close(first * labels_first + second * labels_second, whole * LENGTH, 1e-6, "sum of losses")
        self.assertGreater(abs(first - whole), 1e-4)
        name = "model.embed_tokens.weight"
        total = d_first[name] * labels_first + d_second[name] * labels_second
        self.assert_close(total, d_whole[name] * LENGTH, 1e-5, name)
        # Some shards have no label at all.
        split, _ = self.loss("split", tokens, documents, [0, end], 4, **{"parallel.sequence": 4, "sequence.chunks": 2})
        self.assert_close(split, first, 1e-6, "loss on four ranks")

    def test_row_without_labels_is_skipped(self):
        """Of two rows one is a prompt and nothing else."""
        row = LENGTH + 1
        data = write_token_file(self.folder / "half.h5", program.random_tokens(2 * row), [0, row, 2 * row], [row, row])
        folder = self.folder / "run"
        program.train({**RUN, "train.steps": 4, "train.batch": 1, "data.train": data, "run.directory": folder}, 2)
        with h5py.File(folder / "log.h5", "r") as file:
            kinds = [kind.decode() for kind in file["events/kind"][:]]
        self.assertEqual(kinds.count("no labels"), 2)


if __name__ == "__main__":
    program.main()
