"""`export`: adapter/ and model/ hold what the checkpoint and the base say, and are the same model when read back.

Tensors are compared with numpy, models by the program's own logits; tests/oracle/peft_check.py loads them with transformers and PEFT.
"""

import json
import shutil

import h5py
import numpy as np

import program
from program import ProgramTest

import cases  # of tests/oracle, which program puts on the path

LENGTH = 64
EMBEDDING = "model.embed_tokens.weight"
SEVEN = cases.ATTENTION + cases.MLP


def read_folder(folder):
    """name -> float32 of model.safetensors, or of the shards that the index names."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return cases.read_safetensors(folder / "model.safetensors")
    places = json.loads(index.read_text())["weight_map"]
    files = {name: cases.read_safetensors(folder / name) for name in sorted(set(places.values()))}
    return {tensor: files[file][tensor] for tensor, file in places.items()}


def read_json(path):
    return json.loads(path.read_text())


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class ExportTest(ProgramTest):
    def base(self, **case):
        """A model folder with a tokenizer (any bytes will do), and the case."""
        case = cases.Case("export", tokens=LENGTH, **case)
        folder = self.folder / "base"
        cases.write_model(case, cases.build(case), folder)
        (folder / "tokenizer.model").write_bytes(b"\0tokenizer\n")
        (folder / "generation_config.json").write_text('{"eos_token_id": 2}')
        return folder, case

    def train(self, base, ranks=2, **options):
        tokens = program.write_tokens(self.folder / "tokens.npy", 4, LENGTH)
        options = {"model.path": base, "data.train": tokens, "run.directory": self.folder / "run", "sequence.length": LENGTH,
                   "attention.group": 16, "train.steps": 3, "train.batch": 2, "train.learning_rate": 1e-2,
                   "train.warmup_steps": 1, **{name.replace("__", "."): value for name, value in options.items()}}
        program.train(options, ranks)

    def export(self, ranks=1, code=0, words=(), **options):
        options = {name.replace("__", "."): value for name, value in options.items()}
        result = program.run(["export", *words], {"run.directory": self.folder / "run", **options}, ranks)
        self.assert_code(result, code)
        return result

    def refuse(self, sentence, ranks=1, **options):
        result = self.export(ranks, 2, **options)
        self.assertEqual(len(result.complaints), 1, str(result))
        self.assertRegex(result.complaints[0], sentence)

    @property
    def trained(self):
        return program.read_tensors(program.checkpoint(self.folder / "run", 3), "trainable")

    def exported(self, name):
        return self.folder / "run" / "export" / name

    def logits(self, **options):
        """What `evaluate` computes for one window; compares its perplexity with that of the logits on the way."""
        path = self.folder / "logits.h5"
        tokens = program.write_tokens(self.folder / "held_out.npy", 2, LENGTH, seed=2)
        options = {"data.validation": tokens, "evaluate.contexts": LENGTH, "evaluate.tokens": LENGTH, "evaluate.stride": 1,
                   "evaluate.dump_logits": path, **{name.replace("__", "."): value for name, value in options.items()}}
        result = program.run(["evaluate"], options)
        self.assert_code(result, 0)
        with h5py.File(path, "r") as file:
            logits, held = file["logits"][:], file["tokens"][:]
        stream = np.load(tokens)
        np.testing.assert_array_equal(held, stream[:LENGTH])
        shifted = np.float64(logits) - logits.max(axis=1, keepdims=True)
        losses = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(LENGTH), stream[1:LENGTH + 1]]
        self.assertAlmostEqual(float(result.out.split()[-1] if "rows added" not in result.out else
                                     result.out.splitlines()[-2].split()[-1]) / np.exp(losses.mean()), 1, places=4)
        return logits

    def assert_same_logits(self, a, b, limit=1e-5):
        error = np.abs(np.float64(a) - b).max() / np.abs(b).max()
        self.assertLessEqual(error, limit)
        return error

    def check_merged(self, model, base, scale):
        """W + s B A in float64, everything else as it was trained or as the base has it."""
        trained = self.trained
        for name, weight in read_folder(base).items():
            prefix = cases.adapter_name(name[:-len("weight")])
            expected = np.float64(trained.get(name, weight))
            if prefix + "lora_A.weight" in trained:
                change = np.float64(trained[prefix + "lora_B.weight"]) @ np.float64(trained[prefix + "lora_A.weight"])
                self.assertGreater(np.abs(change).max(), 0)
                expected = expected + scale * change
            self.assert_close(model.pop(name), expected, 1e-6, name)
        self.assertEqual(model, {})

    def check_adapter(self, folder, saved, tied=False):
        """Bit for bit what the checkpoint holds; with a tied head also under the head's name."""
        trained = self.trained
        expected = {name if ".lora_" in name else cases.adapter_name(name): value for name, value in trained.items()}
        if tied and EMBEDDING in trained:
            expected[cases.adapter_name("lm_head.weight")] = trained[EMBEDDING]
        found = cases.read_safetensors(folder / "adapter_model.safetensors")
        self.assertEqual(found.keys(), expected.keys())
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value, name)
        config = read_json(folder / "adapter_config.json")
        self.assertEqual(set(config["modules_to_save"] or ()), set(saved))


class FromRun(ExportTest):
    NORMS = ("input_layernorm", "post_attention_layernorm", "norm")

    def test_grouped_queries_head_dim_and_rope(self):
        base, _ = self.base(width=40, kv_heads=2, head_dim=12)
        self.train(base, tune__targets=",".join(SEVEN), tune__rank=4, tune__alpha=6, rope__scaling="linear",
                   rope__factor=2)
        result = self.export(3, export__shard_size=2e-5)
        model = self.exported("model")
        self.assertGreater(len(list(model.glob("model-*-of-*.safetensors"))), 2)
        self.assertIn("--rope.scaling linear --rope.factor 2", result.out)
        self.check_merged(read_folder(model), base, 6 / 4)
        self.check_adapter(self.exported("adapter"), ("embed_tokens", *self.NORMS))
        self.check_config(read_json(model / "config.json"), read_json(base / "config.json"))
        for name in ("tokenizer.model", "generation_config.json"):
            self.assertEqual((model / name).read_bytes(), (base / name).read_bytes())
        self.check_read_back(base)

    def check_config(self, config, base):
        rope = {"rope_theta": 10000.0, "rope_scaling": {"type": "linear", "factor": 2.0}, "torch_dtype": "float32",
                "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0},
                "max_position_embeddings": LENGTH}
        self.assertEqual({**base, **rope}, config)

    def check_read_back(self, base):
        ours = self.logits(run__directory=self.folder / "run")
        self.assert_same_logits(self.logits(model__path=self.exported("model")), ours)
        adapter = {"model__path": base, "tune__adapter": self.exported("adapter")}
        scaled = self.logits(**adapter, rope__scaling="linear", rope__factor=2)
        np.testing.assert_array_equal(scaled, ours)  # the very same numbers
        self.assertGreater(np.abs(self.logits(**adapter) - ours).max(), 1e-2)  # the scaling is not the adapter's

    def test_tied_head_in_16_bits(self):
        base, _ = self.base(tied=True)
        self.train(base)
        self.export()
        whole = read_folder(self.exported("model"))
        self.check_merged(dict(whole), base, 2)
        self.check_adapter(self.exported("adapter"), ("embed_tokens", "lm_head", *self.NORMS), tied=True)
        ours = self.logits(run__directory=self.folder / "run")
        np.testing.assert_array_equal(self.logits(model__path=base, tune__adapter=self.exported("adapter")), ours)
        for dtype, stored, limit in (("float16", "F16", 2e-3), ("bfloat16", "BF16", 2e-2)):
            place = self.folder / dtype
            self.export(2, export__dtype=dtype, export__directory=place, export__shard_size=1e-5)
            for name, value in read_folder(place / "model").items():
                np.testing.assert_array_equal(value, cases.rounded(whole[name], stored), name)
            self.assertEqual(read_json(place / "model" / "config.json")["torch_dtype"], dtype)
            self.assert_same_logits(self.logits(model__path=place / "model"), ours, limit)

    def test_lora_alone(self):
        base, _ = self.base()
        self.train(base, tune__mode="lora")
        self.export()
        self.check_merged(read_folder(self.exported("model")), base, 2)
        self.check_adapter(self.exported("adapter"), ())
        self.assert_same_logits(self.logits(model__path=self.exported("model")),
                                self.logits(run__directory=self.folder / "run"))

    def test_all_weights_of_a_random_start(self):
        self.train("", tune__mode="full", **{name.replace(".", "__"): value for name, value in program.TINY.items()},
                   model__head_dim=6)
        result = self.export(2)
        self.assertIn("no adapter", result.out)
        self.assertFalse(self.exported("adapter").exists())
        found = read_folder(self.exported("model"))
        self.assertEqual(found.keys(), self.trained.keys())
        for name, value in self.trained.items():
            np.testing.assert_array_equal(found[name], value, name)
        np.testing.assert_array_equal(self.logits(model__path=self.exported("model")),
                                      self.logits(run__directory=self.folder / "run"))

    def test_newest_intact_checkpoint(self):
        base, _ = self.base()
        self.train(base, train__checkpoint_every=1, run__keep=3)
        with h5py.File(program.checkpoint(self.folder / "run", 3), "r+") as file:
            file["trainable"][EMBEDDING][3, 5] = 7
        result = self.export(2)
        self.assertTrue(any("does not match its digest; trying the checkpoint before it" in line
                            for line in result.warnings), str(result))
        found = cases.read_safetensors(self.exported("adapter") / "adapter_model.safetensors")
        before = program.read_tensors(program.checkpoint(self.folder / "run", 2), "trainable")
        np.testing.assert_array_equal(found[cases.adapter_name(EMBEDDING)], before[EMBEDDING])


class OfModel(ExportTest):
    def test_adapter_with_its_own_embeddings(self):
        case = cases.Case("export_adapter", tokens=LENGTH, tied=True, adapter_saves=True, kv_heads=2, stored="BF16")
        files = cases.write(case, cases.build(case), self.folder / "case")
        source = {"model.path": files["model.path"], "tune.adapter": files["tune.adapter"], "rope.scaling": "linear",
                  "rope.factor": 4}
        self.assert_code(program.run(["export"], {**source, "export.directory": self.folder / "out"}, 2), 0)
        ours = self.logits(**source)
        self.assert_same_logits(self.logits(model__path=self.folder / "out" / "model"), ours)
        again = self.logits(**{**source, "tune.adapter": self.folder / "out" / "adapter"})
        np.testing.assert_array_equal(again, ours)
        config = read_json(self.folder / "out" / "model" / "config.json")
        self.assertEqual(config["max_position_embeddings"], 4 * LENGTH)
        self.assertEqual(config["rope_parameters"]["factor"], 4.0)

    def test_base_as_it_is(self):
        base, case = self.base(stored="BF16", shards=2, config_rope="rope_parameters", config_factor=4.0)
        out = self.folder / "out"
        self.assert_code(program.run(["export"], {"model.path": base, "export.directory": out}), 0)
        for name, value in read_folder(base).items():
            np.testing.assert_array_equal(read_folder(out / "model")[name], value, name)
        self.assertFalse((out / "adapter").exists())
        self.assertEqual(read_json(out / "model" / "config.json")["rope_scaling"], {"type": "linear", "factor": 4.0})
        np.testing.assert_array_equal(self.logits(model__path=out / "model"), self.logits(model__path=base))


class Folders(ExportTest):
    def setUp(self):
        super().setUp()
        self.source, _ = self.base()
        self.train(self.source, ranks=1)

    def test_dry_run_writes_nothing(self):
        result = self.export(words=["--dry-run"])
        self.assertIn("nothing written", result.out)
        self.assertFalse((self.folder / "run" / "export").exists())

    def test_an_earlier_export_is_replaced_and_nothing_else(self):
        self.export(export__shard_size=1e-5)
        self.export()  # other files than before
        self.assertFalse(list(self.exported("model").glob("model-*")))
        leftover = self.folder / "run" / "export" / "model.tmp"
        shutil.copytree(self.exported("model"), leftover)  # as a killed export leaves it
        self.export()
        self.assertEqual(sorted(path.name for path in leftover.parent.iterdir()), ["adapter", "model"])
        before = content(self.folder / "run" / "export")
        (self.exported("model") / "notes.txt").write_text("mine")
        self.refuse("model holds notes.txt, which is not of an earlier export, so it is left alone", ranks=2)
        (self.exported("model") / "notes.txt").unlink()
        self.assertEqual(content(self.folder / "run" / "export"), before)

    def test_sources_are_safe(self):
        before = content(self.source)
        place = self.folder / "place"
        place.mkdir()
        shutil.copytree(self.source, place / "model")
        self.refuse("model has no export.json", export__directory=place)
        self.export()
        self.refuse("is the export's place and model.path too", model__path=self.exported("model"))
        self.assertEqual(content(self.source), before)
        self.assertEqual(content(place / "model"), before)

    def test_a_failed_export_leaves_the_earlier_one(self):
        self.export()
        before = content(self.folder / "run" / "export")
        tensors = cases.read_safetensors(self.exported("model") / "model.safetensors")
        tensors["lm_head.weight"][0, 0] = 1e6  # beyond float16
        large = self.folder / "large"
        shutil.copytree(self.source, large)
        cases.write_safetensors(large / "model.safetensors", tensors)
        self.refuse("lm_head.weight' holds 1000000, which F16 cannot; write float32 instead", ranks=2, model__path=large,
                    export__dtype="float16")
        self.assertEqual(content(self.folder / "run" / "export"), before)

    def test_errors(self):
        self.refuse("no intact checkpoint; set run.directory to a run, or model.path to export a model as it is",
                    run__directory=self.folder / "none")
        result = program.run(["export"], {"model.path": self.source}, cwd=self.folder)
        self.assert_code(result, 2)
        self.assertRegex(result.complaints[0], "no place for the export: give export.directory")
        self.refuse("export.dtype must be one of float32, float16, bfloat16, not 'int8'", export__dtype="int8")
        self.refuse("export.shard_size must be above 0", export__shard_size=0)
        tensors = cases.read_safetensors(self.source / "model.safetensors")
        tensors[EMBEDDING][0, 0] += 1
        cases.write_safetensors(self.source / "model.safetensors", tensors)
        self.refuse("was started from another base model")


if __name__ == "__main__":
    program.main()
