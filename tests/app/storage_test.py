"""Where a run is kept: a full disk, one that cannot be written, a folder that vanishes, two runs in one.

Each ends within seconds with one sentence; what lay there before stays, and the run goes on once there is room again.
"""

import contextlib
import os
import resource
import shutil
import signal
import subprocess

import program
from refusal import RefusalTest

FULL = "No space left on device; free some space"
MIB = 1 << 20


@contextlib.contextmanager
def limited_file_size(limit):
    """What is started inherits it: a full disk where there is none."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class StorageTest(RefusalTest):
    def mount(self, mebibytes):
        """A file system of its own, which can be full or read-only; skips the test where one may not mount."""
        disk = self.folder / "disk"
        disk.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(disk)]
        if shutil.which("mount") is None or subprocess.run(words, capture_output=True).returncode != 0:
            self.skipTest("no right to mount a small file system")
        self.addCleanup(subprocess.run, ["umount", str(disk)], check=True)
        return disk

    def fill(self, disk, left=0):
        """Until all but `left` bytes are used; a run may take some of them meanwhile."""
        with open(disk / "others", "wb", buffering=0) as file, contextlib.suppress(OSError):
            while os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize > left:
                file.write(b"\0" * 4096)

    def train_a_step(self, folder):
        program.train(self.good_run(run__directory=folder), 0)

    def prepare_options(self, output):
        (self.folder / "text.txt").write_text("Call me Ishmael. " * 1000)
        return {"prepare.input": self.folder / "text.txt", "prepare.output": output, "prepare.tokenizer": "bytes"}

    def assert_goes_on(self, folder, steps):
        self.assertIn("resumed at step 1", program.train(self.good_run(run__directory=folder, train__steps=steps), 0).out)


class FullDisk(StorageTest):
    def setUp(self):
        super().setUp()
        self.disk = self.mount(12)
        self.run_folder = self.disk / "run"

    def test_checkpoint(self):
        """It is known before it is written; the log has grown."""
        self.train_a_step(self.run_folder)
        self.fill(self.disk, left=MIB)
        self.assert_refused(rf"cannot write .*step-00000002.h5.tmp, which needs .*{FULL}",
                            self.good_run(run__directory=self.run_folder, train__steps=2), code=1,
                            untouched=self.run_folder / "checkpoints")
        (self.disk / "others").unlink()
        self.assert_goes_on(self.run_folder, 2)

    def test_log(self):
        self.train_a_step(self.run_folder)
        self.fill(self.disk)
        self.assert_refused(rf"cannot .* {self.run_folder}/log.h5.*{FULL}",
                            self.good_run(run__directory=self.run_folder, train__steps=2), code=1)
        evaluation = {"run.directory": self.run_folder, "data.validation": self.tokens, "evaluate.contexts": 32}
        self.assert_refused(rf"cannot .* {self.run_folder}/log.h5.*{FULL}", evaluation, ["evaluate"], code=1)
        (self.disk / "others").unlink()
        self.assert_goes_on(self.run_folder, 2)

    def test_log_that_grows(self):
        """It is noticed when the log needs room, which it takes for 511 steps at a time (io/run_log.cpp). Few of the first are
        left; where the run was quicker than the filling, 511 more go by."""
        steps = 506
        program.train(self.good_run(run__directory=self.folder / "long", train__steps=steps), 0)
        for ranks in (0, 4):
            folder = self.disk / f"run{ranks}"
            shutil.copytree(self.folder / "long", folder)
            options = self.good_run(run__directory=folder, train__steps=100000, train__checkpoint_every=0)
            result = program.interrupt(options, ranks, folder / "log.h5", steps + 1, lambda _: self.fill(self.disk))
            self.assert_told(result, rf"cannot write .* {folder}/log.h5: {FULL}", 1, seconds=120)
            (self.disk / "others").unlink()

    def test_other_files(self):
        self.train_a_step(self.folder / "run")
        self.fill(self.disk)
        self.assert_refused(FULL, self.prepare_options(self.disk / "tokens.h5"), ["prepare"], code=1)
        self.assert_refused("0 B are free; free some space",
                            {"run.directory": self.folder / "run", "export.directory": self.disk / "export"}, ["export"], code=1,
                            untouched=self.disk / "others")
        self.refuse(FULL, code=1, untouched=self.disk, run__directory=None, train__dump_gradients=self.disk / "gradients.h5")

    def refuse(self, sentence, code, untouched, **changes):
        """In a new folder each time: the run has begun when it fails."""
        for ranks in (0, 4):
            changes["run__directory"] = self.folder / f"new{ranks}"
            self.assert_refused(sentence, self.good_run(**changes), ranks=(ranks,), code=code, untouched=untouched)


class LimitedFileSize(StorageTest):
    def test_checkpoint(self):
        """The limit lets MPI's own files through, and the log."""
        for ranks in (0, 4):
            folder = self.folder / f"run{ranks}"
            with limited_file_size(6 * MIB):
                self.assert_refused(r"cannot write .*step-00000001.h5.tmp, which needs .*File too large; raise the limit",
                                    self.good_run(run__directory=folder, model__vocabulary=60000), ranks=(ranks,), code=1,
                                    untouched=folder / "checkpoints")


class ReadOnly(StorageTest):
    def setUp(self):
        super().setUp()
        self.disk = self.mount(12) if os.geteuid() == 0 else self.folder / "disk"
        self.train_a_step(self.disk / "run")
        if os.geteuid() == 0:
            subprocess.run(["mount", "-o", "remount,ro", str(self.disk)], check=True)
        else:  # root may write whatever the permissions are
            self.disk.chmod(0o555)
            (self.disk / "run").chmod(0o555)
            self.addCleanup((self.disk / "run").chmod, 0o755)
            self.addCleanup(self.disk.chmod, 0o755)

    def test_commands(self):
        unwritable = "(Read-only file system; choose a place that can be written|Permission denied; change its permissions)"
        run = {"run.directory": self.disk / "run"}
        self.assert_refused(f"cannot create the folder .*/new.*{unwritable}", self.good_run(run__directory=self.disk / "new"))
        self.assert_refused(f"log.h5.*{unwritable}", self.good_run(run__directory=self.disk / "run", train__steps=2), code=1)
        self.assert_refused(f"cannot create the folder .*export.*{unwritable}", run, ["export"])
        self.assert_refused(f"log.h5.*{unwritable}", {**run, "data.validation": self.tokens, "evaluate.contexts": 32},
                            ["evaluate"], code=1)
        self.assert_refused(f"tokens.h5.tmp.*{unwritable}", self.prepare_options(self.disk / "tokens.h5"), ["prepare"], code=1)
        self.assertIn("is finished", program.train(self.good_run(run__directory=self.disk / "run"), 0).out)


class Vanished(StorageTest):
    def assert_ends(self, act):
        for ranks in (0, 4):
            folder = self.folder / f"run{ranks}"
            options = self.good_run(run__directory=folder, train__steps=1000000, train__checkpoint_every=0)
            result = program.interrupt(options, ranks, folder / "log.h5", 3, lambda _: act(folder))
            with self.subTest(ranks=ranks):
                self.assert_told(result, f"{folder}/log.h5 was moved, removed or replaced .*; put the folder back", 1)

    def test_removed(self):
        self.assert_ends(shutil.rmtree)

    def test_moved(self):
        self.assert_ends(lambda folder: folder.rename(f"{folder}.moved"))


class TwoRuns(StorageTest):
    def test_second_is_refused(self):
        """And touches nothing, not even what looks left over: the first is writing it."""
        folder = self.folder / "run"
        first = self.good_run(run__directory=folder, train__steps=1000000, train__checkpoint_every=0)

        def start_a_second(process):
            unfinished = folder / "checkpoints" / "step-00000009.h5.tmp"
            later = folder / "checkpoints" / "step-00000010.h5"
            for path in (unfinished, later):
                path.write_text("written by the first")
            second = {**first, "train.steps": 2}
            self.assert_refused("another process is writing a run in .*: wait until it has ended, or choose another run.directory", second,
                                untouched=folder / "checkpoints")
            process.send_signal(signal.SIGUSR1)
        result = program.interrupt(first, 0, folder / "log.h5", 3, start_a_second)
        self.assert_code(result, 75)


if __name__ == "__main__":
    program.main()
