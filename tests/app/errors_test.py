"""What a user can do wrong: exit 2 within seconds, one sentence that names the cause, said once, nothing written.

Each case runs alone and on four ranks.
"""

import json
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np

import program
from program import ProgramTest

import cases  # of tests/oracle, which program puts on the path

SECONDS = 5 if not program.IS_SANITIZED else 20
LENGTH = 64
# A run that would work.
GOOD = {**program.TINY, "sequence.length": LENGTH, "attention.group": 16, "train.steps": 1, "train.batch": 1}


class ErrorsTest(ProgramTest):
    def setUp(self):
        super().setUp()
        self.tokens = program.write_tokens(self.folder / "tokens.npy", 4, LENGTH)

    def assert_refused(self, sentence, options, command=("train",), ranks=(0, 4)):
        """`sentence` is a regular expression for what must be said."""
        # At once, since most of the time goes into mpirun's waiting for the end.
        with ThreadPoolExecutor() as pool:
            results = list(pool.map(lambda count: program.run(command, options, count, cwd=self.folder), ranks))
        print(results[0].complaints, flush=True)
        for result, count in zip(results, ranks):
            with self.subTest(sentence, ranks=count):
                self.assert_told(result, sentence)
                self.assertFalse((self.folder / "run").exists(), f"a folder was made by\n{result}")

    def assert_told(self, result, sentence):
        self.assert_code(result, 2)
        self.assertEqual(len(result.complaints), 1, str(result))
        self.assertRegex(result.complaints[0], sentence)
        # Nothing of a library's own, no second line.
        self.assertEqual(result.said, result.warnings + result.complaints, str(result))
        self.assertLess(result.seconds, SECONDS, str(result))

    def refuse(self, sentence, command=("train",), ranks=(0, 4), **changes):
        """GOOD with changes; two underscores stand for the dot of an option's name, None leaves it out."""
        options = {**GOOD, "data.train": self.tokens, "run.directory": self.folder / "run"}
        options.update({name.replace("__", "."): value for name, value in changes.items()})
        self.assert_refused(sentence, {name: value for name, value in options.items() if value is not None}, command, ranks)


class CommandLine(ErrorsTest):
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
        self.refuse("parallel.device cuda: this build has no CUDA", parallel__device="cuda")
        self.refuse("rope.scaling yarn is not built yet; choose from none, linear", rope__scaling="yarn")
        self.refuse("rope.factor must be at least 1", rope__scaling="linear", rope__factor=0.5)
        self.refuse("evaluate.contexts must be a whole number, not 'long'", evaluate__contexts="64,long")
        self.refuse("tune.targets has no 'qproj'; choose from q_proj", tune__targets="qproj,v_proj")

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


class Contradictions(ErrorsTest):
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


class Data(ErrorsTest):
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


class BaseModel(ErrorsTest):
    def setUp(self):
        super().setUp()
        self.case = cases.Case("errors")
        self.files = cases.write(self.case, cases.build(self.case), self.folder / "base")
        self.model = self.files["model.path"]

    def refuse_model(self, sentence, **changes):
        options = {"model.path": self.model, "data.train": self.tokens, "run.directory": self.folder / "run",
                   "sequence.length": LENGTH, "attention.group": 16, "train.steps": 1, "train.batch": 1,
                   **{name.replace("__", "."): value for name, value in changes.items()}}
        self.assert_refused(sentence, options)

    def change_config(self, **changes):
        path = self.model / "config.json"
        config = {**json.loads(path.read_text()), **changes}
        path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))

    def test_folder(self):
        self.refuse_model("none", model__path=self.folder / "none")
        (self.model / "model.safetensors").unlink()
        self.refuse_model("safetensors")
        (self.model / "config.json").unlink()
        self.refuse_model("config.json")

    def test_config_is_not_json(self):
        (self.model / "config.json").write_text('{"hidden_size": 32,')
        self.refuse_model("config.json is not valid JSON")

    def test_config_lacks_a_size(self):
        self.change_config(hidden_size=None)
        self.refuse_model('config.json: "hidden_size" is missing')

    def test_config_of_another_model(self):
        self.change_config(model_type="mistral")
        self.refuse_model('"model_type" is "mistral"')

    def test_config_of_other_sizes(self):
        self.change_config(intermediate_size=64)
        self.refuse_model("does not hold the model that its config.json describes: .*mlp")

    def test_safetensors_cut_short(self):
        path = self.model / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-1000])
        self.refuse_model("cut short; copy or download it again")

    def test_safetensors_is_something_else(self):
        (self.model / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
        self.refuse_model("is not a safetensors file, or damaged")

    def test_tensor_missing(self):
        inputs = cases.build(self.case)
        del inputs.base["model.layers.1.mlp.up_proj.weight"]
        cases.write_safetensors(self.model / "model.safetensors", inputs.base)
        self.refuse_model("model.layers.1.mlp.up_proj.weight is missing")

    def test_adapter(self):
        adapter = self.files["tune.adapter"]
        self.refuse_model("tune.rank is 8, but the adapter in .* has 4", tune__adapter=adapter, tune__rank=8)
        self.refuse_model("none", tune__adapter=self.folder / "none")
        (adapter / "adapter_model.safetensors").unlink()
        self.refuse_model("adapter_model.safetensors", tune__adapter=adapter)


class OtherCommands(ErrorsTest):
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
        latin = self.folder / "latin.txt"
        latin.write_bytes("line\nna\xefve".encode("latin-1"))
        refuse("latin.txt:2 is not valid UTF-8", input=latin)
        lines = self.folder / "lines.jsonl"
        lines.write_text('{"text": "good"}\n{"txt": "bad"}\n')
        refuse('lines.jsonl:2 must have either "text" or both "prompt" and "completion"', input=lines)
        lines.write_text('{"text": "good"}\n{"text": \n')
        refuse("lines.jsonl:2", input=lines)

    def test_report(self):
        self.assert_refused("log.h5", {"run.directory": "none"}, ["report"])


if __name__ == "__main__":
    program.main()
