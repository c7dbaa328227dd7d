"""Stopping and going on: 20 steps are 10 and 10, bit for bit on the same layout; what may not change is refused."""

import re
import shutil

import h5py
import numpy as np

import program
from program import ProgramTest

import cases  # of tests/oracle, which program puts on the path

LENGTH = 64
ROWS = 24
LOSS_LIMIT = 1e-5  # on another layout

PHYSICS = {**program.TINY, "sequence.length": LENGTH, "attention.group": 16, "rope.scaling": "linear", "rope.factor": 4,
           "train.batch": 3, "train.learning_rate": 1e-2, "train.warmup_steps": 4, "tune.dropout": 0.1}
LAYOUT = {"parallel.sequence": 2, "sequence.chunks": 2}
RANKS = 4
OTHER_LAYOUT = {"parallel.sequence": 1, "sequence.chunks": 4, "train.activations": "recompute_layer"}
OTHER_RANKS = 2


def read_checkpoint(folder, step):
    """All tensors of a checkpoint: the weights and both moments."""
    path = program.checkpoint(folder, step)
    return {**program.read_tensors(path, "trainable"),
            **{f"moments/{name}": value for name, value in program.read_tensors(path, "moments").items()}}


def read_events(folder):
    with h5py.File(folder / "log.h5", "r") as file:
        return [kind.decode() for kind in file["events/kind"][:]]


class ResumeTest(ProgramTest):
    def assert_each_step_once(self, folder, steps):
        self.assertEqual(program.read_steps(folder / "log.h5")["step"].tolist(), list(range(1, steps + 1)))

    def assert_same_bits(self, folder, expected_folder, step):
        computed, expected = read_checkpoint(folder, step), read_checkpoint(expected_folder, step)
        self.assertEqual(computed.keys(), expected.keys())
        for name in expected:
            self.assertTrue(np.array_equal(computed[name].view(np.uint32), expected[name].view(np.uint32)), name)
        losses = [program.read_steps(each / "log.h5")["loss"] for each in (folder, expected_folder)]
        self.assertEqual(losses[0].tolist(), losses[1].tolist())


class Resume(ResumeTest):
    """Runs of 20 steps."""

    @classmethod
    def setUpClass(cls):
        cls.make_common_folder()
        cls.physics = {**PHYSICS, "data.train": program.write_tokens(cls.common / "tokens.npy", ROWS, LENGTH)}
        cls.whole = cls.common / "whole"  # in one go, with checkpoints of steps 10 and 20
        program.train({**cls.physics, **LAYOUT, "train.steps": 20, "train.checkpoint_every": 10,
                       "run.directory": cls.whole}, RANKS)
        cls.half = cls.common / "half"
        program.train({**cls.physics, **LAYOUT, "train.steps": 10, "run.directory": cls.half}, RANKS)

    def copy_of(self, run):
        return program.Path(shutil.copytree(run, self.folder / run.name))

    def go_on(self, folder, steps, layout=LAYOUT, ranks=RANKS, **others):
        return program.run(["train"], {**self.physics, **layout, "train.steps": steps, "run.directory": folder, **others},
                           ranks)

    def test_same_layout_same_bits(self):
        folder = self.copy_of(self.half)
        result = self.go_on(folder, 20)
        self.assert_code(result, 0)
        self.assertIn("resumed at step 10", result.out)
        self.assert_same_bits(folder, self.whole, 20)
        self.assert_each_step_once(folder, 20)

    def test_options_come_from_the_checkpoint(self):
        folder = self.copy_of(self.half)
        result = program.run(["train"], {"run.directory": folder, "train.steps": 20, "parallel.sequence": 2}, RANKS)
        self.assert_code(result, 0)
        self.assert_same_bits(folder, self.whole, 20)

    def test_other_layout_same_losses(self):
        folder = self.copy_of(self.half)
        self.assert_code(self.go_on(folder, 20, OTHER_LAYOUT, OTHER_RANKS), 0)
        losses, expected = (program.read_steps(run / "log.h5")["loss"] for run in (folder, self.whole))
        self.assertEqual(losses[:10].tolist(), expected[:10].tolist())
        for step in range(10, 20):
            self.assert_close(losses[step], expected[step], LOSS_LIMIT, f"loss of step {step + 1}")
        self.assert_each_step_once(folder, 20)

    def test_finished_run_says_so(self):
        before = read_checkpoint(self.half, 10)
        result = self.go_on(self.half, 10)
        self.assert_code(result, 0)
        self.assertIn("is finished", result.out)
        self.assertEqual(before.keys(), read_checkpoint(self.half, 10).keys())
        self.assert_each_step_once(self.half, 10)

    def test_finished_run_with_a_damaged_last_checkpoint_goes_on(self):
        folder = self.copy_of(self.whole)
        newest = program.checkpoint(folder, 20)
        self.change_a_weight(newest)
        result = self.go_on(folder, 20)
        self.assert_code(result, 0)
        self.assertNotIn("is finished", result.out)
        self.assertTrue(any("step-00000020.h5" in line for line in result.warnings), str(result))
        self.assertIn("resumed at step 10", result.out)
        self.assertTrue(newest.with_name(newest.name + ".damaged-1").exists())
        self.assert_same_bits(folder, self.whole, 20)
        self.assert_each_step_once(folder, 20)
        self.assertIn("is finished", self.go_on(folder, 20).out)

    def test_damaged_checkpoint_pushes_out_no_intact_one(self):
        """With run.keep 1 the damaged one of step 20 would be the newest, and the only one left."""
        folder = self.copy_of(self.whole)
        self.change_a_weight(program.checkpoint(folder, 20))
        self.assert_code(self.go_on(folder, 12, **{"run.keep": 1}), 0)
        self.assertEqual([path.name for path in (folder / "checkpoints").glob("*.h5")], ["step-00000012.h5"])

    def test_run_killed_while_it_ended_ends(self):
        """The last checkpoint stands, the event "finished" does not."""
        folder = self.copy_of(self.half)
        with h5py.File(folder / "log.h5", "r+", libver="latest") as file:
            for dataset in file["events"].values():
                dataset.resize((len(dataset) - 1,))
        self.assertNotIn("is finished", self.go_on(folder, 10).out)
        self.assertEqual(read_events(folder)[-1], "finished")
        self.assertIn("is finished", self.go_on(folder, 10).out)
        self.assert_each_step_once(folder, 10)

    def test_other_physics_is_refused_with_a_list(self):
        result = self.go_on(self.half, 20, **{"tune.rank": 4, "attention.group": 32, "run.seed": 7})
        self.assert_code(result, 2)
        self.assertEqual(len(result.complaints), 1, str(result))
        for words in ("tune.rank is '8' in the run, not '4'", "attention.group is '16' in the run, not '32'", "run.seed"):
            self.assertIn(words, result.complaints[0])

    def test_resume_never_and_require(self):
        result = self.go_on(self.half, 20, **{"run.resume": "never"})
        self.assert_code(result, 2)
        self.assertRegex(result.complaints[0], "holds a run already")
        result = self.go_on(self.folder / "none", 20, **{"run.resume": "require"})
        self.assert_code(result, 2)
        self.assertRegex(result.complaints[0], "no intact checkpoint")

    def test_truncated_checkpoint_is_passed_over(self):
        folder = self.copy_of(self.whole)
        newest = program.checkpoint(folder, 20)
        newest.write_bytes(newest.read_bytes()[:-2000])
        self.assert_passed_over(folder)

    def test_changed_weight_is_noticed(self):
        folder = self.copy_of(self.whole)
        self.change_a_weight(program.checkpoint(folder, 20))
        self.assert_passed_over(folder)

    def change_a_weight(self, newest):
        content = bytearray(newest.read_bytes())
        weight = next(iter(program.read_tensors(newest, "moments/second").values())).tobytes()
        content[content.index(weight[:256]) + 100] ^= 1
        newest.write_bytes(content)

    def assert_passed_over(self, folder):
        result = self.go_on(folder, 22)
        self.assert_code(result, 0)
        self.assertTrue(any("step-00000020.h5" in line for line in result.warnings), str(result))
        self.assertIn("resumed at step 10", result.out)
        self.assert_each_step_once(folder, 22)
        losses, expected = (program.read_steps(run / "log.h5")["loss"] for run in (folder, self.whole))
        self.assertEqual(losses[:20].tolist(), expected.tolist())

    def test_all_checkpoints_damaged_is_an_error(self):
        folder = self.copy_of(self.half)
        newest = program.checkpoint(folder, 10)
        newest.write_bytes(newest.read_bytes()[:5000])
        result = self.go_on(folder, 20)
        self.assert_code(result, 2)
        self.assertEqual(len(result.complaints), 1, str(result))


class OtherBase(ResumeTest):
    def test_is_refused(self):
        options = {"train.batch": 1, "train.steps": 2, "run.directory": self.folder / "run"}
        bases = []
        for name in ("resume_one", "resume_another"):
            case = cases.Case(name, mode="full")
            files = cases.write(case, cases.build(case), self.folder / name)
            bases.append({**cases.physics_options(case), **files})
        program.train({**options, **bases[0]})
        another = {**options, **bases[0], "train.steps": 4, "model.path": bases[1]["model.path"]}
        result = program.run(["train"], another, 2)
        self.assert_code(result, 2)
        self.assertEqual(len(result.complaints), 1, str(result))
        self.assertRegex(result.complaints[0], "another base model.*fingerprint")
        # A folder that has moved is the same base.
        moved = self.folder / "moved"
        bases[0]["model.path"].rename(moved)
        self.assert_code(program.run(["train"], {**another, "model.path": moved}), 0)
        evaluation = {"run.directory": options["run.directory"], "data.validation": bases[0]["data.train"]}
        self.assert_code(program.run(["evaluate"], evaluation, 2), 0)
        # Other weights in the same folder are another base, for evaluate too.
        shutil.copy(bases[1]["model.path"] / "model.safetensors", moved)
        result = program.run(["evaluate"], evaluation, 2)
        self.assert_code(result, 2)
        self.assertRegex(result.complaints[0], "another base model.*fingerprint")


class Interrupted(ResumeTest):
    """A run that was stopped in between ends with the same bits as one in one go."""

    STEPS = 60
    LENGTH = 1024  # a step takes long enough for the interruption to come between two

    def setUp(self):
        super().setUp()
        self.options = {**PHYSICS, **LAYOUT, "sequence.length": self.LENGTH, "attention.group": 128,
                        "train.steps": self.STEPS, "run.directory": self.folder / "run",
                        "data.train": program.write_tokens(self.folder / "tokens.npy", ROWS, self.LENGTH)}

    def interrupt(self, steps, act, **others):
        run = {**self.options, **others}
        return program.interrupt(run, RANKS, run["run.directory"] / "log.h5", steps, act)

    def go_on_and_compare(self):
        """Returns the step from which it went on."""
        run = self.options["run.directory"]
        result = program.train({**self.options, "run.directory": run}, RANKS)
        program.train({**self.options, "run.directory": self.folder / "whole"}, RANKS)
        self.assert_same_bits(run, self.folder / "whole", self.STEPS)
        self.assert_each_step_once(run, self.STEPS)
        return int(re.search(r"resumed at step (\d+)", result.out).group(1))

    def test_stopped_on_request(self):
        """SIGUSR1 to mpirun: checkpoint, exit 75."""
        result = self.interrupt(3, program.ask_to_stop)
        self.assert_code(result, 75)
        self.assertIn("stopped on request", result.out)
        run = self.options["run.directory"]
        steps = [int(path.stem[5:]) for path in (run / "checkpoints").glob("step-*.h5")]
        self.assertEqual(len(steps), 1)
        self.assertTrue(3 <= steps[0] < self.STEPS, steps)
        self.assert_each_step_once(run, steps[0])
        self.assertEqual(read_events(run)[-1], "stopped")
        self.assertEqual(self.go_on_and_compare(), steps[0])

    def test_a_rank_is_killed(self):
        """All end soon; the log's later steps are cut, and done again from the last checkpoint."""
        result = self.interrupt(13, program.kill_a_rank, **{"train.checkpoint_every": 10})
        self.assertNotIn(result.code, (0, 2, 75), str(result))
        self.assertLess(result.seconds, 5 if not program.IS_SANITIZED else 20, str(result))
        self.assertIn(self.go_on_and_compare(), range(10, self.STEPS, 10))


if __name__ == "__main__":
    program.main()
