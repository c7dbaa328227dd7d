"""A changed byte in a file, seen from outside: no crash, no hang, and where there are checksums no wrong number.

LONGLORA_DAMAGE: files of each kind, 5 unless it says 100.
"""

import os
import random
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "app"))
import program  # noqa: E402
from program import ProgramTest  # noqa: E402

import cases  # noqa: E402  of tests/oracle, which program puts on the path

COUNT = int(os.environ.get("LONGLORA_DAMAGE", "5"))
SECONDS = 60  # until a run counts as hanging


class Damaged(ProgramTest):
    """One step is trained; then a file is changed and two more steps are asked for."""

    @classmethod
    def setUpClass(cls):
        cls.make_common_folder()
        case = cases.Case("damaged")
        files = cases.write(case, cases.build(case), cls.common / "inputs")
        cls.model, cls.tokens = Path(files["model.path"]), Path(files["data.train"])
        cls.options = {**cases.physics_options(case), **files, "train.checkpoint_every": 1}
        cls.ini = cls.common / "run.ini"
        cls.ini.write_text("[train]\nbeta1 = 0.9\nlearning_rate = 1e-3\n[log]\nevery = 10\n")
        program.train(cls.run_options(cls.common / "run", 2), 0)
        whole = shutil.copytree(cls.common / "run", cls.common / "whole")
        program.train(cls.run_options(whole, 4), 0)
        cls.losses = program.read_steps(whole / "log.h5")["loss"].tolist()

    @classmethod
    def run_options(cls, folder, steps):
        return {"config": cls.ini, **cls.options, "train.steps": steps, "run.directory": folder}

    def go_on(self, damaged):
        """Flips a byte of `damaged` (of the run, if relative), goes on, puts the byte back; the Result and the run's folder."""
        dice = random.Random(f"{damaged.name} {self.number}")
        folder = Path(shutil.copytree(self.common / "run", self.folder / f"run{self.number}"))
        path = damaged if damaged.is_absolute() else folder / damaged
        intact = path.read_bytes()
        content = bytearray(intact)
        place = dice.randrange(len(content))
        content[place] ^= dice.randrange(1, 256)
        path.write_bytes(content)
        print(f"{path.name} {self.number}: byte {place} from {intact[place]} to {content[place]}", flush=True)
        try:
            result = program.run(["train"], self.run_options(folder, 4), 0, timeout=SECONDS)
        finally:
            if damaged.is_absolute():
                path.write_bytes(intact)
        return result, folder

    def each(self, damaged, is_checked=True):
        """is_checked: goes on with the right numbers, or is refused; else it may train on what it has read."""
        for self.number in range(COUNT):
            with self.subTest(damaged.name, number=self.number):
                result, folder = self.go_on(damaged)
                self.assertIn(result.code, (0, 2), str(result))
                if result.code == 2:
                    self.assertEqual(len(result.complaints), 1, str(result))
                elif is_checked:
                    self.assert_right(folder, result)
                shutil.rmtree(folder)

    def assert_right(self, folder, result):
        steps = program.read_steps(folder / "log.h5")
        self.assertEqual(steps["step"].tolist(), list(range(5 - len(steps["step"]), 5)), str(result))
        self.assertEqual(steps["loss"].tolist(), self.losses[-len(steps["loss"]):], str(result))
        if len(steps["step"]) < 4:  # the log of before has been set aside
            self.assertTrue(any("a new log begins" in line for line in result.warnings), str(result))

    def test_checkpoint(self):
        self.each(Path("checkpoints/step-00000002.h5"))

    def test_log(self):
        self.each(Path("log.h5"))

    def test_weights(self):
        self.each(self.model / "model.safetensors")

    def test_config_json(self):
        self.each(self.model / "config.json")

    def test_adapter(self):
        self.each(Path(self.options["tune.adapter"]) / "adapter_model.safetensors", is_checked=False)
        self.each(Path(self.options["tune.adapter"]) / "adapter_config.json", is_checked=False)

    def test_npy(self):
        self.each(self.tokens, is_checked=False)

    def test_ini(self):
        self.each(self.ini, is_checked=False)


class DamagedTokens(ProgramTest):
    """tokens.h5, which prepare has written."""

    def test_training(self):
        text = self.folder / "text.txt"
        text.write_text("Call me Ishmael. " * 100)
        tokens = self.folder / "tokens.h5"
        prepare = {"prepare.input": text, "prepare.output": tokens, "prepare.tokenizer": "bytes"}
        self.assert_code(program.run(["prepare"], prepare, 0), 0)
        intact = tokens.read_bytes()
        options = {**program.TINY, "model.vocabulary": 258, "sequence.length": 64, "attention.group": 16,
                   "train.steps": 2, "train.batch": 4, "data.train": tokens}
        program.train({**options, "run.directory": self.folder / "intact"}, 0)
        expected = program.read_steps(self.folder / "intact" / "log.h5")["loss"].tolist()
        for number in range(COUNT):
            dice = random.Random(number)
            content = bytearray(intact)
            place = dice.randrange(len(content))
            content[place] ^= dice.randrange(1, 256)
            tokens.write_bytes(content)
            folder = self.folder / f"run{number}"
            result = program.run(["train"], {**options, "run.directory": folder}, 0, timeout=SECONDS)
            with self.subTest(f"byte {place}"):
                self.assertIn(result.code, (0, 2), str(result))
                if result.code == 0:
                    self.assertEqual(program.read_steps(folder / "log.h5")["loss"].tolist(), expected)


if __name__ == "__main__":
    program.main()
