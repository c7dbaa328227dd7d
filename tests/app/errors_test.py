"""What a user can do wrong: exit 2 within seconds, one sentence that names the cause and what to do, said once, nothing written.

Each case runs alone and on four ranks.
"""

import json
import os
import shutil
import sys
import unittest.mock

import h5py
import numpy as np

import program
from refusal import GOOD, LENGTH, RefusalTest

import cases  # of tests/oracle, which program puts on the path

sys.path.insert(0, str(program.ROOT / "tests" / "fuzz"))
import seeds  # noqa: E402

class CommandLine(RefusalTest):
    def test_words(self):
        self.assert_refused("unknown option '--train.stps'; did you mean --train.steps\\?", {"train.stps": 3})
        self.assert_refused("unknown command 'trian'; the commands are train", {}, ["trian"])
        self.assert_refused("one command at most", {}, ["train", "report"])
        self.assert_refused("--train.steps needs a value", {}, ["train", "--train.steps", "--train.batch", "1"])
        self.assert_refused("train.steps", {}, ["train", "--train.steps"])

    def test_values(self):
        self.refuse("train.steps must be a whole number, not 'ten'", train__steps="ten")
        self.refuse("train.batch must be at least 1, not 0", train__batch=0)
        self.refuse("train.learning_rate must be a number, not 'nan'", train__learning_rate="nan")
        self.refuse("attention.pattern must be one of s2, local, shifted, full, not 's3'", attention__pattern="s3")
        self.refuse("rope.scaling yarn is not built yet; choose from none, linear", rope__scaling="yarn")
        self.refuse("rope.factor must be at least 1", rope__scaling="linear", rope__factor=0.5)
        self.refuse("evaluate.contexts must be a whole number, not 'long'", evaluate__contexts="64,long")
        self.refuse("tune.targets has no 'qproj'; choose from q_proj", tune__targets="qproj,v_proj")

    def test_no_gpu(self):
        with unittest.mock.patch.dict(os.environ, {"CUDA_VISIBLE_DEVICES": ""}):
            self.refuse("parallel.device cuda: (this build has no CUDA|no GPU is seen)", parallel__device="cuda")

    def test_config_files(self):
        def config(text):
            path = self.folder / "run.ini"
            path.write_text(text)
            return {"config": path}

        self.assert_refused("cannot read the config file 'none.ini'", {"config": "none.ini"})
        self.assert_refused("run.ini.*train.step.*did you mean --train.steps", config("[train]\nstep = 3\n"))
        self.assert_refused("run.ini: train.steps must be a whole number, not 'many'", config("[train]\nsteps = many\n"))
        self.assert_refused("run.ini: train.steps stands there twice", config("[train]\nsteps = 1\nsteps = 2\n"))
        self.assert_refused("run.ini", config("[train]\nno equals sign\n"))


class Contradictions(RefusalTest):
    def test_layout(self):
        self.refuse("sequence.length 64 does not divide into 3 chunks", sequence__chunks=3)
        self.refuse("attention.group 15 must be even", attention__group=15)
        self.refuse("must be a multiple of half of attention.group", attention__group=48)
        self.refuse("wrap.*cannot be streamed: set sequence.chunks to 1", attention__boundary="wrap", sequence__chunks=2)
        self.refuse("wrap needs sequence.length to be a multiple of attention.group", attention__boundary="wrap",
                    attention__group=128)
        self.refuse("wrap has no meaning with attention.pattern full", attention__boundary="wrap",
                    attention__pattern="full")
        self.refuse("parallel.sequence 3 does not divide the 4 ranks started; choose one of 1, 2, 4", ranks=(4,),
                    parallel__sequence=3)
        self.refuse("parallel.sequence 2 does not divide the 1 rank started", ranks=(0,), parallel__sequence=2)

    def test_model_sizes(self):
        self.refuse("model.width 32 must be a multiple of model.heads 3", model__heads=3, model__kv_heads=1)
        self.refuse("model.heads 4 must be a multiple of model.kv_heads 3", model__kv_heads=3)
        self.refuse("head size 5.* must be even", model__head_dim=5)
        self.refuse("model.heads must be at least 1, not 0", model__heads=0)

    def test_run_folder(self):
        (self.folder / "file").write_text("")
        self.refuse("file", run__directory=self.folder / "file")
        self.refuse("run.resume is require, but .*no intact checkpoint", run__resume="require")


    def test_a_place_that_a_dry_run_looks_at(self):
        dry = ("train", "--dry-run")
        for place in (self.tokens, self.tokens / "run"):
            self.refuse(f"cannot write the run to {place}: {self.tokens}: Not a directory", dry, run__directory=place)
        self.assert_code(program.run(dry, self.good_run(run__directory=self.folder / "new/new/run"), 0), 0)
        self.assertFalse((self.folder / "new").exists())


class Data(RefusalTest):
    def test_missing(self):
        self.refuse("data.train", data__train=None)
        self.refuse("cannot open .*none.npy: No such file", data__train=self.folder / "none.npy")
        self.refuse("cannot open .*none.h5: No such file", data__validation=self.folder / "none.h5")

    def test_not_tokens(self):
        text = self.folder / "text.txt"
        text.write_text("Call me Ishmael. " * 100)
        self.refuse("text.txt holds no tokens", data__train=text)
        np.save(self.folder / "floats.npy", np.zeros(1000))
        self.refuse("floats.npy must hold int32", data__train=self.folder / "floats.npy")
        with h5py.File(self.folder / "other.h5", "w") as file:
            file["numbers"] = np.zeros(1000)
        self.refuse("other.h5.*/tokens", data__train=self.folder / "other.h5")
        odd = self.folder / "odd.bin"
        odd.write_bytes(b"\0" * 1001)
        self.refuse("odd.bin has 1001 bytes, which is no multiple of 2", data__train=odd)

    def test_too_short(self):
        short = self.folder / "short.npy"
        np.save(short, program.random_tokens(LENGTH))
        self.refuse("short.npy holds 64 tokens, fewer than one row of sequence.length \\+ 1 = 65", data__train=short)
        for command in (("train",), ("train", "--dry-run")):
            self.refuse("short.npy holds 64 tokens, fewer than the longest of evaluate.contexts \\(128\\)", command,
                        data__validation=short, evaluate__contexts="32,128")

    def test_out_of_vocabulary(self):
        """Found by whoever reads it. On four ranks with a shard each one of them does, and ends all."""
        tokens = program.random_tokens(LENGTH + 1)
        tokens[40] = program.VOCABULARY
        np.save(self.folder / "large.npy", tokens)
        for ranks in (0, 4):
            options = {**GOOD, "data.train": self.folder / "large.npy", "run.directory": self.folder / f"run{ranks}"}
            self.assert_told(program.run(["train"], options, ranks),
                             "large.npy: token 40 is 61, but the model's vocabulary has 61 entries")

    def test_builtin_documents_need_their_vocabulary(self):
        self.refuse("vocabulary", data__train="builtin")

    def write_h5(self, name, prompt_end=None, documents=None, tokens=4 * (LENGTH + 1), **attributes):
        """One document, whose first `prompt_end` tokens are its prompt."""
        path = self.folder / name
        with h5py.File(path, "w") as file:
            file["tokens"] = program.random_tokens(tokens).astype(np.uint16)
            file["documents"] = np.array(documents or [0, tokens], np.uint64)
            if prompt_end is not None:
                file["prompt_ends"] = np.array([prompt_end], np.uint64)
            file.attrs.update(attributes)
        return path

    def test_no_labels(self):
        prompts = self.write_h5("prompts.h5", prompt_end=4 * (LENGTH + 1))
        self.refuse("prompts.h5 has nothing to learn", data__train=prompts)
        self.refuse("prompts.h5 has nothing to score", data__validation=prompts)

    def test_another_vocabulary(self):
        larger = self.write_h5("larger.h5", vocabulary_size=258, tokenizer="bytes")
        self.refuse("larger.h5 was made with a tokenizer of 258 entries.*vocabulary has 61", data__train=larger)
        self.refuse("larger.h5 was made with a tokenizer of 258 entries.*vocabulary has 61", data__validation=larger)
        one, another = (self.write_h5(f"{name}.h5", vocabulary_size=61, tokenizer_digest=name) for name in ("one", "another"))
        self.refuse("one.h5 and .*another.h5 were made with different tokenizers", data__train=one, data__validation=another)

    def test_unusable_tokens(self):
        self.refuse("odd.h5: /documents must hold one entry more", data__train=self.write_h5("odd.h5", 3, documents=[0, 5]))
        self.refuse("none.h5 holds 0 tokens", data__train=self.write_h5("none.h5", tokens=0))
        (self.folder / "empty.npy").write_bytes(b"")
        self.refuse("empty.npy holds no tokens", data__train=self.folder / "empty.npy")
        self.refuse("not a regular file", data__train=self.folder)
        (self.folder / "cut.npy").write_bytes(self.tokens.read_bytes()[:-50])
        self.refuse("cut.npy ends before its 260 tokens", data__train=self.folder / "cut.npy")
        whole = self.write_h5("whole.h5")
        (self.folder / "cut.h5").write_bytes(whole.read_bytes()[:-50])
        self.refuse("cannot read .*cut.h5: truncated file", data__train=self.folder / "cut.h5")


class BaseModel(RefusalTest):
    def setUp(self):
        super().setUp()
        self.case = cases.Case("errors")
        self.files = cases.write(self.case, cases.build(self.case), self.folder / "base")
        self.model = self.files["model.path"]

    def refuse_model(self, sentence, command=("train",), **changes):
        options = {"model.path": self.model, "data.train": self.tokens, "run.directory": self.folder / "run",
                   "sequence.length": LENGTH, "attention.group": 16, "train.steps": 1, "train.batch": 1,
                   **{name.replace("__", "."): value for name, value in changes.items()}}
        self.assert_refused(sentence, {name: value for name, value in options.items() if value is not None}, command)

    def change_config(self, **changes):
        path = self.model / "config.json"
        config = {**json.loads(path.read_text()), **changes}
        path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))

    def refuse_config(self, sentence, **changes):
        before = (self.model / "config.json").read_text()
        self.change_config(**changes)
        self.refuse_model(sentence)
        (self.model / "config.json").write_text(before)

    def write_model(self, change):
        """The weights, changed."""
        weights = cases.build(self.case).base
        change(weights)
        cases.write_safetensors(self.model / "model.safetensors", weights)

    def test_folder(self):
        self.refuse_model("none", model__path=self.folder / "none")
        (self.model / "model.safetensors").unlink()
        self.refuse_model("safetensors")
        (self.model / "config.json").unlink()
        self.refuse_model("config.json")

    def test_config_is_not_json(self):
        (self.model / "config.json").write_text('{"hidden_size": 32,')
        self.refuse_model("config.json is not valid JSON")

    def test_config(self):
        self.refuse_config('config.json: "hidden_size" is missing', hidden_size=None)
        self.refuse_config('config.json: "hidden_size" is "32", but must be an integer', hidden_size="32")
        self.refuse_config('"hidden_size" is not a multiple of "num_attention_heads"', num_attention_heads=3)
        self.refuse_config("the number of layers is -1, but must be from 1", num_hidden_layers=-1)
        self.refuse_config("vocab_size.* is 10{15}, but must be from 1", vocab_size=10**15)
        self.refuse_config("rms_norm_eps must be above 0", rms_norm_eps=-1)
        self.refuse_config('"model_type" is "mistral"', model_type="mistral")
        self.refuse_config('"hidden_act" is "gelu"', hidden_act="gelu")
        self.refuse_config('"attention_bias" is true', attention_bias=True)
        self.refuse_config('"rope_type" is "longrope"', rope_scaling={"rope_type": "longrope", "factor": 2})
        self.refuse_config('"rope_scaling" is "linear", but must be an object', rope_scaling="linear")
        self.refuse_config('"quantization_config".*use the model\'s unquantised version', quantization_config={"bits": 4})
        self.refuse_config("does not hold the model that its config.json describes: .*mlp", intermediate_size=64)

    def test_safetensors_cut_short(self):
        path = self.model / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-1000])
        self.refuse_model("cut short; copy or download it again")

    def test_safetensors_is_something_else(self):
        (self.model / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
        self.refuse_model("is not a safetensors file, or damaged")

        (self.model / "model.safetensors").write_bytes(b"")
        self.refuse_model("is not a safetensors file, or damaged")
        (self.model / "model.safetensors").unlink()
        (self.model / "model.safetensors").mkdir()
        self.refuse_model("model.safetensors: it is not a regular file")

    def test_shard_missing(self):
        (self.model / "model.safetensors").unlink()
        index = {"weight_map": {"model.norm.weight": "model-00001-of-00001.safetensors"}}
        (self.model / "model.safetensors.index.json").write_text(json.dumps(index))
        self.refuse_model("model-00001-of-00001.safetensors is missing, but .*index.json names it; download it too")

    def test_tensors(self):
        name = "model.layers.1.mlp.up_proj.weight"
        self.write_model(lambda weights: weights.pop(name))
        self.refuse_model(f"{name} is missing")
        self.write_model(lambda weights: weights.update({name: np.ascontiguousarray(weights[name].T)}))
        self.refuse_model(f"{name} is \\[32, 56\\] instead of \\[56, 32\\]")
        self.write_model(lambda weights: None)
        path = self.model / "model.safetensors"
        path.write_bytes(path.read_bytes().replace(b'"F32"', b'"I32"'))
        self.refuse_model("I32")

    def test_weights_that_are_no_numbers(self):
        name = "model.layers.1.mlp.up_proj.weight"
        for place, value in ((name, np.nan), (name, np.inf), ("model.embed_tokens.weight", -np.inf)):
            def change(weights):
                weights[place] = weights[place].copy()
                weights[place].flat[5] = value
            self.write_model(change)
            sentence = f"model.safetensors: tensor '{place}' holds a NaN or an infinity; "
            self.refuse_model(sentence)
        self.refuse_model(sentence, ["evaluate"], data__validation=self.tokens, evaluate__contexts=32)

    def test_another_base(self):
        program.train({"model.path": self.model, "data.train": self.tokens, "run.directory": self.folder / "run",
                       "sequence.length": LENGTH, "attention.group": 16, "train.steps": 1, "train.batch": 1}, 0)
        self.write_model(lambda weights: weights.update({"model.norm.weight": 2 * weights["model.norm.weight"]}))
        self.refuse_model("was started from another base model.*fingerprint differs", train__steps=2)

    def test_adapter(self):
        adapter = self.files["tune.adapter"]
        self.refuse_model("tune.rank is 8, but the adapter in .* has 4", tune__adapter=adapter, tune__rank=8)
        self.refuse_model("none", tune__adapter=self.folder / "none")
        (adapter / "adapter_model.safetensors").unlink()
        self.refuse_model("adapter_model.safetensors", tune__adapter=adapter)


class Checkpoints(RefusalTest):
    def setUp(self):
        super().setUp()
        self.run_folder = self.folder / "run"
        program.train(self.good_run(), 0)
        self.checkpoint = program.checkpoint(self.run_folder, 1)

    def refuse_run(self):
        """With no other checkpoint than a damaged one."""
        self.refuse("checkpoints has checkpoints, but none is intact; move them away", train__steps=2)
        run = {"run.directory": self.run_folder, "data.validation": self.tokens}
        self.assert_refused("no intact checkpoint; set run.directory to a run", run, ["evaluate"])

    def test_cut_short(self):
        self.checkpoint.write_bytes(self.checkpoint.read_bytes()[:4000])
        self.refuse_run()
        self.assert_refused("no intact checkpoint; set run.directory to a run", {"run.directory": self.run_folder}, ["export"])

    def test_empty(self):
        self.checkpoint.write_bytes(b"")
        self.refuse_run()

    def test_something_else(self):
        with h5py.File(self.checkpoint, "w") as file:
            file["tokens"] = np.zeros(100)
        self.refuse_run()

    def test_folder_is_a_file(self):
        shutil.rmtree(self.checkpoint.parent)
        self.checkpoint.parent.write_text("")
        self.refuse("cannot create the folder .*checkpoints: ", train__steps=2)

    def test_another_model(self):
        self.refuse("model.width is '32' in the run, not '64'", train__steps=2, model__width=64)


    def test_a_base_that_was_forgotten(self):
        """A small random model would train happily."""
        options = {"data.train": self.tokens, "sequence.length": LENGTH}
        for changes, is_warned in (({}, True), ({"tune.mode": "full"}, False), ({"model.layers": 2}, False)):
            result = program.run(["train", "--dry-run"], {**options, **changes}, 0, cwd=self.folder)
            self.assert_code(result, 0)
            self.assertEqual(any("no model.path: tune.mode lora_plus" in line for line in result.warnings), is_warned, str(result))

    def test_options_in_vain(self):
        dry = ("train", "--dry-run")
        for changes, part in (({"train.offload": 4}, "train.offload has no effect on a CPU"),
                              ({"run.directory": self.run_folder, "train.dump_gradients": "g.h5"}, "of the first step")):
            result = program.run(dry, {**self.good_run(run__directory=None, parallel__device="cpu"), **changes}, 0, cwd=self.folder)
            self.assert_code(result, 0)
            self.assertEqual(sum(part in line for line in result.warnings), 1, str(result))

    def test_no_time_to_wait(self):
        """A value that is refused must not count until then."""
        for seconds in (0, -1):
            self.refuse(f"comm.timeout must be above 0, not {seconds}", comm__timeout=seconds)


class OtherCommands(RefusalTest):
    def test_dry_run(self):
        """Who looks before launching must not have launched."""
        text = self.folder / "text.txt"
        text.write_text("Call me Ishmael.")
        prepare = {"prepare.input": text, "prepare.output": self.folder / "tokens.h5", "prepare.tokenizer": "bytes"}
        for command, options in (("prepare", prepare), ("evaluate", {"run.directory": "none"}), ("report", {})):
            self.assert_refused(f"{command} has no --dry-run; give it to train or export", options, [command, "--dry-run"])

    def test_evaluate(self):
        self.assert_refused("no intact checkpoint; set run.directory to a run, or model.path", {"run.directory": "none"},
                            ["evaluate"])
        model = cases.write(cases.Case("errors"), cases.build(cases.Case("errors")), self.folder / "base")["model.path"]
        self.assert_refused("evaluate needs held-out tokens: set data.validation", {"model.path": model}, ["evaluate"])
        self.assert_refused("evaluate.contexts must be positive", {"model.path": model, "data.validation": self.tokens,
                                                                   "evaluate.contexts": "32,0"}, ["evaluate"])

    def test_prepare(self):
        text = self.folder / "text.txt"
        text.write_text("Call me Ishmael.")
        good = {"prepare.input": text, "prepare.output": self.folder / "tokens.h5", "prepare.tokenizer": "bytes"}

        def refuse(sentence, **changes):
            options = {**good, **{f"prepare.{name}": value for name, value in changes.items()}}
            self.assert_refused(sentence, {name: value for name, value in options.items() if value}, ["prepare"])
            self.assertFalse(good["prepare.output"].exists())

        refuse("prepare.input is empty", input=None)
        refuse("prepare.output is empty", output=None)
        refuse("no tokenizer: give prepare.tokenizer", tokenizer=None)
        refuse("none.txt", input=self.folder / "none.txt")
        refuse("none.model", tokenizer=self.folder / "none.model")
        hollow = seeds.sentencepiece(seeds.UNIGRAM, ["", "a"], False)  # SentencePiece throws
        for name, content in (("noise.model", b"\x93\x07" * 500), ("empty.model", b""), ("json.model", b"{}"),
                              ("hollow.model", hollow)):
            (self.folder / name).write_bytes(content)
            refuse(f"{name} is not a SentencePiece model, or damaged", tokenizer=self.folder / name)
        for content, sentence in ((b"{}", "a model that is not BPE is not supported"), (b'{"model": ', "tokenizer.json")):
            (self.folder / "tokenizer.json").write_bytes(content)
            refuse(sentence, tokenizer=self.folder / "tokenizer.json")
        latin = self.folder / "latin.txt"
        latin.write_bytes("line\nna\xefve".encode("latin-1"))
        refuse("latin.txt:2 is not valid UTF-8", input=latin)
        lines = self.folder / "lines.jsonl"
        lines.write_text('{"text": "good"}\n{"txt": "bad"}\n')
        refuse('lines.jsonl:2 must have either "text" or both "prompt" and "completion"', input=lines)
        lines.write_text('{"text": "good"}\n{"text": \n')
        refuse("lines.jsonl:2", input=lines)

    def test_prepare_into_a_folder(self):
        (self.folder / "taken").mkdir()
        (self.folder / "text.txt").write_text("Call me Ishmael.")
        self.assert_refused("taken is a folder where a file is to be written", {
            "prepare.input": self.folder / "text.txt", "prepare.output": self.folder / "taken", "prepare.tokenizer": "bytes"},
            ["prepare"])

    def test_report(self):
        self.assert_refused("log.h5", {"run.directory": "none"}, ["report"])


if __name__ == "__main__":
    program.main()
