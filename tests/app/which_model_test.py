"""Which model `evaluate` and `export` work on: a run's newest checkpoint, also with the file that the run was started with, which
names its base; a model as it is only where the command line says model.path. That leaves no trace in a run that nobody named.
"""

import fcntl
import os
import shutil

import program
from program import ProgramTest

import cases  # of tests/oracle, which program puts on the path

LENGTH = 64


class WhichModel(ProgramTest):
    @classmethod
    def setUpClass(cls):
        """A base, and a run that was started by a config file in the folder it lies in, with relative paths."""
        cls.make_common_folder()
        for name in ("base", "other"):
            case = cases.Case(name, tokens=LENGTH)
            cases.write_model(case, cases.build(case), cls.common / name)
        program.write_tokens(cls.common / "tokens.npy", 4, LENGTH)
        program.write_tokens(cls.common / "held_out.npy", 2, LENGTH, seed=2)
        (cls.common / "my.ini").write_text(f"""
[model]
path = base
[data]
train = tokens.npy
validation = held_out.npy
[run]
name = mine
[sequence]
length = {LENGTH}
[attention]
group = 16
[train]
steps = 2
learning_rate = 1e-2
warmup_steps = 1
batch = 1
[evaluate]
tokens = {LENGTH}
""")
        result = program.run(["train"], {"config": "my.ini"}, cwd=cls.common)
        assert result.code == 0, result
        cls.perplexity = program.read_evaluations(cls.common / "runs/mine/log.h5")[("trained", LENGTH)]

    def setUp(self):
        super().setUp()
        self.work = self.folder / "work"
        shutil.copytree(self.common, self.work)
        self.run_folder = self.work / "runs/mine"

    def start(self, command, options={}, code=0, cwd=None):
        result = program.run([command], options, cwd=cwd or self.work)
        self.assert_code(result, code)
        return result

    def assert_evaluates_the_run(self, options, **where):
        data = {"data.validation": self.work / "held_out.npy", "evaluate.tokens": LENGTH, "evaluate.contexts": LENGTH}
        result = self.start("evaluate", {**options, **data}, **where)
        self.assertIn(f"{self.perplexity:.6g}", result.out)
        self.assertIn("rows added", result.out)

    def assert_exports_the_run(self, options, **where):
        shutil.rmtree(self.run_folder / "export", ignore_errors=True)
        result = self.start("export", options, **where)
        self.assertIn("PEFT, LoRA", result.out)
        self.assertIn("step-00000002.h5", (self.run_folder / "export/model/export.json").read_text())

    def rows(self):
        return (self.run_folder / "log.h5").read_bytes()

    def test_the_file_that_the_run_was_started_with(self):
        self.assert_evaluates_the_run({"config": "my.ini"})
        self.assert_exports_the_run({"config": "my.ini"})

    def test_from_elsewhere(self):
        """The run knows where its base lies."""
        elsewhere = self.folder / "elsewhere"
        elsewhere.mkdir()
        self.assert_evaluates_the_run({"run.directory": "../work/runs/mine"}, cwd=elsewhere)
        self.assert_exports_the_run({"run.directory": "../work/runs/mine"}, cwd=elsewhere)

    def test_a_base_that_was_moved(self):
        away = (self.common / "base").rename(self.common / "away")
        self.addCleanup(away.rename, self.common / "base")
        result = self.start("export", {"run.directory": self.run_folder}, code=2)
        self.assertRegex(result.complaints[0], "base is where the run in .* has its base: put it there again, or")
        (self.work / "moved.ini").write_text("[model]\npath = base\n")
        self.assert_evaluates_the_run({"run.directory": self.run_folder, "config": "moved.ini"})
        self.assert_exports_the_run({"run.directory": self.run_folder, "config": "moved.ini"})

    def test_another_base_in_the_file(self):
        (self.work / "other.ini").write_text("[model]\npath = other\n")
        before = self.rows()
        for command in ("evaluate", "export"):
            options = {"run.directory": self.run_folder, "config": "other.ini", "data.validation": "held_out.npy"}
            result = self.start(command, options, code=2)
            self.assertRegex(result.complaints[0], "another base model than other.*; give the same model.path")
        self.assertEqual(self.rows(), before)
        self.assertFalse((self.run_folder / "export").exists())

    def test_resumed_from_elsewhere(self):
        """The run knows where its data lie; they may be somewhere else by now, but not be others."""
        elsewhere = self.folder / "elsewhere"
        elsewhere.mkdir()
        common = {"run.directory": self.run_folder}

        def resume(steps, code=0, **options):
            result = self.start("train", {**common, "train.steps": steps, **{"data.train": path for path in options.values()}},
                                code, cwd=elsewhere)
            self.assertTrue(code or "resumed at step" in result.out, str(result))
            return result

        resume(3)
        resume(4, given=os.path.relpath(self.common / "tokens.npy", elsewhere))    # another name of the same file
        other = program.write_tokens(elsewhere / "tokens.npy", 4, LENGTH, seed=3)
        self.assertRegex(resume(5, 2, given=other).complaints[0], "data.train is '.*' in the run, not '.*elsewhere/tokens.npy'")
        away = (self.common / "tokens.npy").rename(self.common / "away.npy")
        self.addCleanup(away.rename, self.common / "tokens.npy")
        result = resume(5, given=self.work / "tokens.npy")
        self.assertRegex(result.warnings[0], "data.train was .*tokens.npy, which is no longer there")

    def test_a_run_that_is_being_written(self):
        """Its numbers are told; its log is the writer's."""
        before = self.rows()
        folder = os.open(self.run_folder, os.O_RDONLY)
        self.addCleanup(os.close, folder)
        fcntl.flock(folder, fcntl.LOCK_EX)
        data = {"data.validation": "held_out.npy", "evaluate.tokens": LENGTH, "evaluate.contexts": LENGTH}
        result = self.start("evaluate", {"run.directory": self.run_folder, **data})
        self.assertIn(f"{self.perplexity:.6g}", result.out)
        self.assertRegex("\n".join(result.warnings), "no rows added to .*: another process is writing the log")
        self.assertEqual(self.rows(), before)

    def test_a_model_as_it_is(self):
        """The default folder holds a run, but nobody named it."""
        self.run_folder.rename(self.work / "runs/longlora")
        before = (self.work / "runs/longlora/log.h5").read_bytes()
        result = self.start("evaluate", {"model.path": "other", "data.validation": "held_out.npy", "evaluate.contexts": LENGTH})
        self.assertNotIn("rows added", result.out)
        self.assertEqual((self.work / "runs/longlora/log.h5").read_bytes(), before)
        result = self.start("export", {"model.path": "other"}, code=2)
        self.assertIn("no place for the export", result.complaints[0])
        self.start("export", {"model.path": "other", "export.directory": "as_it_is"})
        self.assertTrue((self.work / "as_it_is/model/model.safetensors").is_file())

    def test_without_a_run_the_demonstrations_base_is_not_exported(self):
        result = self.start("export", code=2)
        self.assertRegex(result.complaints[0], "no intact checkpoint; set run.directory")
        self.assertFalse((self.work / "runs/demonstration").exists())


if __name__ == "__main__":
    program.main()
