"""What a newcomer does first: --help, --version, the default run (shortened), --dry-run and whether it keeps its word."""

import re
import shutil

import program
from program import ProgramTest


class FirstWords(ProgramTest):
    def test_help(self):
        for ranks in (0, 2):
            result = program.run(["--help"], ranks=ranks, cwd=self.folder)
            self.assert_code(result, 0)
            for words in ("longlora_hpc [COMMAND] [--config FILE]", "evaluate", "prepare", "report", "--dry-run"):
                self.assertIn(words, result.out)
            for key in ("run.directory", "model.path", "tune.mode", "sequence.length", "attention.pattern", "rope.factor",
                        "train.dump_gradients", "parallel.sequence", "data.train", "evaluate.contexts"):
                self.assertEqual(result.out.count(f"--{key} "), 1, key)
            self.assertLessEqual(max(map(len, result.out.splitlines())), 100)

    def test_version(self):
        result = program.run(["--version"], ranks=2)
        self.assert_code(result, 0)
        self.assertRegex(result.out, r"^longlora_hpc \d+\.\d+\.\d+\n$")


class DefaultRun(ProgramTest):
    """Three steps and few scored tokens of the run that starts without any option."""

    def test_shortened(self):
        folder = self.folder / "run"
        result = program.run([], {"config": "default", "train.steps": 3, "evaluate.tokens": 1024,
                                  "evaluate.contexts": "256,1024", "run.directory": folder}, 4, cwd=self.folder)
        self.assert_code(result, 0)
        self.assertEqual(result.complaints, [], str(result))
        self.assertEqual(program.read_steps(folder / "log.h5")["step"].tolist(), [1, 2, 3])
        self.assert_table(result.out, program.read_evaluations(folder / "log.h5"))
        for written in (folder / "log.h5", program.checkpoint(folder, 3)):
            self.assertTrue(written.is_file())
            self.assertIn(str(written), result.out)

    def assert_table(self, text, evaluations):
        """Three rows and two columns, the same in the log."""
        for model in ("base", "interpolated", "trained"):
            for context in (256, 1024):
                value = evaluations[(model, context)]
                self.assertTrue(1 < value < 1000, f"{model} {context}: {value}")
                self.assertIn(f"{value:.4g}"[:4], text)
        for words in ("base as it is", "position interpolation only", "after LongLoRA"):
            self.assertIn(words, text)


def bytes_of_total(text):
    return float(re.search(r"^total +(\d+)", text, re.MULTILINE).group(1))


def bytes_sent(text):
    return float(re.search(r"\((\d+) bytes\), all ranks together", text).group(1))


# Sizes at which a run's own memory is well above that of the program and its libraries (30 MB).
LARGE = {"model.width": 256, "model.layers": 4, "model.heads": 8, "model.kv_heads": 4, "model.mlp_width": 688,
         "model.vocabulary": 8000, "sequence.length": 4096, "attention.group": 512, "train.batch": 2, "train.steps": 1}

DRY_RUNS = [
    (2, {"parallel.sequence": 2, "sequence.chunks": 1, "train.activations": "keep"}),
    (2, {"parallel.sequence": 2, "sequence.chunks": 4, "train.activations": "keep", "tune.mode": "full"}),
    (2, {"parallel.sequence": 1, "sequence.chunks": 1, "train.activations": "recompute_layer"}),
    (4, {"model.vocabulary": 32000, "sequence.length": 512, "attention.group": 128}),  # trainables, no activations
    (2, {"model.vocabulary": 32000, "sequence.length": 512, "attention.group": 128, "tune.mode": "lora"}),
]


class DryRun(ProgramTest):
    def both(self, ranks, options):
        """What --dry-run says, and /steps of the run itself."""
        folder = self.folder / "run"
        options = {**options, "run.directory": folder}
        dry = program.run(["train", "--dry-run"], options, ranks)
        self.assert_code(dry, 0)
        self.assertFalse(folder.exists())
        self.assertIn("nothing was written", dry.out)
        program.train(options, ranks)
        return dry.out, program.read_steps(folder / "log.h5")

    def test_bytes_sent_are_exact(self):
        tokens = program.write_tokens(self.folder / "tokens.npy", 4, 192)
        for ranks, layout in (
                (1, {"sequence.chunks": 4}),
                (2, {"parallel.sequence": 2, "sequence.chunks": 2}),
                (3, {"parallel.sequence": 3, "sequence.chunks": 4}),  # shards of one and a third half-groups
                (4, {"parallel.sequence": 2, "sequence.chunks": 3, "attention.pattern": "full"}),
                (4, {"parallel.sequence": 4, "sequence.chunks": 1, "attention.boundary": "wrap"}),
                (8, {"parallel.sequence": 8, "sequence.chunks": 2, "attention.group": 96})):
            with self.subTest(ranks=ranks, **layout):
                said, steps = self.both(ranks, {**program.TINY, "sequence.length": 192, "attention.group": 24,
                                                "train.batch": 3, "train.steps": 1, "data.train": tokens,
                                                "run.directory": self.folder / "run", **layout})
                self.assertEqual(bytes_sent(said), steps["halo_bytes"][0])
                self.assertEqual(steps["halo_bytes"][0] > 0, layout.get("parallel.sequence", 1) > 1)
            shutil.rmtree(self.folder / "run", ignore_errors=True)

    @program.unittest.skipIf(program.IS_SANITIZED, "a sanitizer has memory of its own")
    def test_memory(self):
        tokens = program.write_tokens(self.folder / "tokens.npy", 4, LARGE["sequence.length"], LARGE["model.vocabulary"])
        for ranks, layout in DRY_RUNS:
            with self.subTest(ranks=ranks, **layout):
                said, steps = self.both(ranks, {**LARGE, **layout, "data.train": tokens})
                planned, measured = bytes_of_total(said), steps["peak_bytes_host"].max()
                print(f"{layout}: planned {planned / 2**20:.1f} MiB, peak {measured / 2**20:.1f} MiB", flush=True)
                self.assertGreater(measured, 100e6)
                self.assertLess(abs(planned - measured) / measured, 0.1, f"planned {planned:.4g}, measured {measured:.4g}")
            shutil.rmtree(self.folder / "run", ignore_errors=True)


class Configs(ProgramTest):
    def test_every_file_parses(self):
        files = sorted((program.ROOT / "config").glob("*.ini"))
        self.assertGreaterEqual(len(files), 2)
        for file in files:
            with self.subTest(file.name):
                result = program.run(["--help"], {"config": file}, 0)
                self.assert_code(result, 0)
                self.assertEqual(result.said, [])

    def test_the_paper(self):
        """llama2_7b_32k.ini, but for the model: a tiny one shows that the rest fits together."""
        tokens = program.write_tokens(self.folder / "tokens.npy", 1, 32768)
        result = program.run(["train", "--dry-run"],
                             {"config": program.ROOT / "config" / "llama2_7b_32k.ini", **program.TINY,
                              "data.train": tokens, "run.directory": self.folder / "run"}, 2)
        self.assert_code(result, 0)
        self.assertIn("aligned with half-groups of 4096", result.out)

    def test_the_demonstration(self):
        result = program.run(["train", "--dry-run"], {"config": program.ROOT / "config" / "default.ini"}, 3,
                             cwd=self.folder)
        self.assert_code(result, 0)
        self.assertEqual(list(self.folder.iterdir()), [])


if __name__ == "__main__":
    program.main()
