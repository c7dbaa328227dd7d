"""Asked to stop, dying and hanging: nothing is lost, all ranks end, and what is wrong is named."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "app"))
import program  # noqa: E402
from program import ProgramTest, np  # noqa: E402

RANKS = 2
STEPS = 4
LENGTH = 64
PATIENCE = 10  # seconds after which a step is given up (train/trainer.cpp)
OPTIONS = {**program.TINY, "model.vocabulary": 8200, "model.tied": "true", "sequence.length": LENGTH,
           "attention.group": 16, "train.batch": 2, "train.steps": STEPS, "train.checkpoint_every": 2,
           "evaluate.contexts": 32, "evaluate.tokens": 128, "evaluate.every": 2, "parallel.sequence": RANKS,
           "sequence.chunks": 2}


def children_of(process):
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def state(pid):
    """As ps tells it; X of a process that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def is_halted(pid):
    return state(pid) == "T"


def is_alive(pid):
    return state(pid) not in "XZ"


def halted_rank(process, timeout=60):
    """The process id of the rank that LONGLORA_FAULT=...:stop has halted, once it has."""
    limit = time.monotonic() + timeout
    while time.monotonic() < limit:
        for pid in children_of(process):
            if is_halted(pid):
                return pid
        time.sleep(0.02)
    raise AssertionError("no rank was halted")


class FaultTest(ProgramTest):
    def setUp(self):
        super().setUp()
        self.options = {**OPTIONS, "run.directory": self.folder / "run",
                        "data.train": program.write_tokens(self.folder / "train.npy", 8, LENGTH, 8200),
                        "data.validation": program.write_tokens(self.folder / "validation.npy", 4, LENGTH, 8200, seed=2)}

    def start(self, fault, **options):
        words = program.command_line(["train"], {**self.options, **options}, RANKS)
        return subprocess.Popen(words, env={**program.environment(), "LONGLORA_FAULT": fault}, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace")

    def end_of(self, process, timeout=60):
        begin = time.monotonic()
        try:
            out, err = process.communicate(timeout=timeout)
        finally:
            process.kill()
        return program.Result(process.args, process.returncode, out, err, time.monotonic() - begin)

    def assert_ends_as_undisturbed(self):
        """The same command goes on and ends with the bits of a run in one go."""
        self.assert_code(program.run(["train"], self.options, RANKS), 0)
        whole = {**self.options, "run.directory": self.folder / "whole"}
        program.train(whole, RANKS)
        for group in ("trainable", "moments"):
            found, expected = (program.read_tensors(program.checkpoint(each["run.directory"], STEPS), group)
                               for each in (self.options, whole))
            for name, value in expected.items():
                self.assertTrue(np.array_equal(found[name].view(np.uint32), value.view(np.uint32)), name)
        logs = [each["run.directory"] / "log.h5" for each in (self.options, whole)]
        self.assertEqual(program.read_steps(logs[0])["step"].tolist(), list(range(1, STEPS + 1)))
        self.assertEqual(*(program.read_evaluations(log) for log in logs))


class Stop(FaultTest):
    """SIGUSR1 to mpirun, as a queue sends it."""

    def stop_at(self, fault, seconds=0):
        """A rank is halted at `fault`, all are asked to stop, it goes on after `seconds`."""
        process = self.start(fault)
        rank = halted_rank(process)
        time.sleep(seconds)
        process.send_signal(signal.SIGUSR1)
        time.sleep(0.2)
        os.kill(rank, signal.SIGCONT)
        result = self.end_of(process)
        self.assert_code(result, 75)
        return int(re.search(r"stopped on request after step (\d+)", result.out).group(1))

    def test_short_step_is_finished(self):
        self.assertEqual(self.stop_at("forward:1:1:stop"), 1)
        self.assert_ends_as_undisturbed()

    def test_long_step_is_given_up(self):
        """Between two chunks; the step before it stands."""
        forward_of_a_step = 24  # or more: the second step, or the third, is on its way
        step = self.stop_at(f"forward:{2 * forward_of_a_step}:1:stop", PATIENCE + 0.5)
        self.assertEqual(program.read_steps(self.options["run.directory"] / "log.h5")["step"].tolist(),
                         list(range(1, step + 1)))
        self.assertLess(step, STEPS)
        self.assert_ends_as_undisturbed()

    def test_long_evaluation_is_given_up(self):
        """The first, of the base: no step is done. It is made up for."""
        self.assertEqual(self.stop_at("evaluate:1:1:stop", PATIENCE + 0.5), 0)
        self.assert_ends_as_undisturbed()

    def test_last_evaluation_is_given_up(self):
        """Not finished before it is made. Rank 1 has two windows each of base, step 2 and step 4."""
        self.assertEqual(self.stop_at("evaluate:5:1:stop", PATIENCE + 0.5), STEPS)
        self.assert_ends_as_undisturbed()

    def test_while_a_checkpoint_is_read(self):
        program.train({**self.options, "train.steps": 2}, RANKS)
        self.assertEqual(self.stop_at("load:1:1:stop"), 3)


class Death(FaultTest):
    def seconds_to_the_end(self, process):
        """From a rank's death until mpirun has ended all."""
        limit = time.monotonic() + 60
        ranks = set()
        while len(ranks) < RANKS or all(is_alive(pid) for pid in ranks):
            ranks.update(children_of(process))
            self.assertTrue(process.poll() is None and time.monotonic() < limit, "no rank has died")
            time.sleep(0.01)
        death = time.monotonic()
        process.wait(60)
        return time.monotonic() - death

    def test_others_end_within_five_seconds(self):
        for fault in ("mpi_up:1:1", "forward:9:1", "halo_wait:9:1", "gradient_sync:3:1", "checkpoint_write:1:1",
                      "evaluate:1:1", "end:1:1"):
            with self.subTest(fault):
                process = self.start(fault)
                seconds = self.seconds_to_the_end(process)
                result = self.end_of(process)
                self.assertNotIn(result.code, (0, 2, 75), str(result))
                self.assertRegex(result.err, r"process rank 1 with PID \d+ on node \S+ exited on signal 9", str(result))
                print(f"{fault:22} {seconds:.1f} s", flush=True)
                self.assertLess(seconds, 5 if not program.IS_SANITIZED else 20, f"{fault}\n{result}")
                shutil.rmtree(self.options["run.directory"], ignore_errors=True)


class KilledAtTheEnd(FaultTest):
    def test_log_is_mended(self):
        """All was written, but the log was not closed: other tools do not open it until the run is started again."""
        self.end_of(self.start("close_log:1:0"))
        with self.assertRaises(OSError):
            program.read_steps(self.options["run.directory"] / "log.h5")
        self.assert_ends_as_undisturbed()


class Hang(FaultTest):
    TIMEOUT = 2

    def assert_named(self, fault, where, culprit):
        process = self.start(fault, **{"comm.timeout": self.TIMEOUT})
        halted = halted_rank(process)
        result = self.end_of(process)
        self.assertNotIn(result.code, (0, 2, 75), str(result))
        self.assertLess(result.seconds, self.TIMEOUT + (5 if not program.IS_SANITIZED else 20), str(result))
        sentence = (rf"rank 0 on host \S+: no answer from other ranks for 2.* in phase {where}; on this host "
                    rf"rank 1, process {halted} \(stopped\), in phase {culprit} does not wait, and may hang")
        self.assertTrue(any(re.search(sentence, line) for line in result.complaints), str(result))

    def test_inside_a_layer(self):
        """Rank 1 stands still while it computes; rank 0 waits for its gradients of the border."""
        self.assert_named("backward:1:1:stop", r"(halo_wait|forward|backward), step 1, chunk \d, layer \d",
                          r"backward, step 1, chunk \d(, layer \d)?")

    def test_gradients(self):
        self.assert_named("gradient_sync:1:1:stop", "gradient_sync, step 1", "gradient_sync, step 1")

    def test_inside_a_collective_write(self):
        self.assert_named("checkpoint_write:1:1:stop", "checkpoint, step 2", "checkpoint, step 2")

    def test_at_the_end(self):
        self.assert_named("end:1:1:stop", r"\w+, step 4", r"\w+, step 4")


if __name__ == "__main__":
    program.main()
