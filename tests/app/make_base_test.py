"""The embedded base model: the first steps of the recipe that made it, and the way from a checkpoint to config/demonstration."""

import json
import subprocess
import sys

import numpy as np

import program
from program import ProgramTest

CONFIG = program.ROOT / "config"
# Losses of the first steps of scripts/make_base.sh (inside the warm-up, so train.steps does not matter).
LOSSES = [7.363004, 7.367561, 7.344802, 7.337811, 7.330684, 7.338709]


class MakeBase(ProgramTest):
    def setUp(self):
        super().setUp()
        self.run_folder = self.folder / "run"
        self.options = {"config": CONFIG / "base.ini", "train.steps": max(len(LOSSES), 1), "evaluate.tokens": 512,
                        "evaluate.contexts": "256", "run.directory": self.run_folder}

    def convert(self, step):
        script = program.ROOT / "scripts" / "checkpoint_to_safetensors.py"
        return subprocess.run([sys.executable, script, program.checkpoint(self.run_folder, step), self.folder / "model"],
                              capture_output=True, text=True)

    def test_first_steps(self):
        program.train({**self.options, "parallel.sequence": 1}, 2, cwd=self.folder)
        losses = program.read_steps(self.run_folder / "log.h5")["loss"]
        self.assert_close(losses, LOSSES, 1e-3, "the losses")
        self.assertLess(np.abs(losses / LOSSES - 1).max(), 1e-3, f"{losses} instead of {LOSSES}")

    def test_conversion(self):
        """The directory made of a checkpoint has the same perplexity as the checkpoint, and the embedded one's shape."""
        program.train({**self.options, "train.steps": 2}, cwd=self.folder)
        evaluated = program.read_evaluations(self.run_folder / "log.h5")
        done = self.convert(2)
        self.assertEqual(done.returncode, 0, done.stderr)
        made = json.loads((self.folder / "model" / "config.json").read_text())
        embedded = json.loads((CONFIG / "demonstration" / "config.json").read_text())
        self.assertEqual(made, embedded)
        self.assertEqual((self.folder / "model" / "model.safetensors").stat().st_size,
                         (CONFIG / "demonstration" / "model.safetensors").stat().st_size)
        result = program.run(["evaluate"], {"model.path": self.folder / "model", "data.validation": "builtin-validation",
                                            "evaluate.tokens": 512, "evaluate.contexts": "256",
                                            "evaluate.stride": 0, "run.directory": self.folder / "none"}, cwd=self.folder)
        self.assert_code(result, 0)
        perplexity = float(result.out.split()[-1])
        self.assertAlmostEqual(perplexity / evaluated[("trained", 256)], 1, places=3)

    def test_a_checkpoint_of_lora_is_refused(self):
        program.train({"config": CONFIG / "default.ini", "train.steps": 1, "evaluate.tokens": 256,
                       "evaluate.contexts": "256", "run.directory": self.run_folder}, cwd=self.folder)
        done = self.convert(1)
        self.assertEqual(done.returncode, 1)
        self.assertIn("tune.mode", done.stderr)


if __name__ == "__main__":
    program.main()
