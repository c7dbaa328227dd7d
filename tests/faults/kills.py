"""Killed anywhere: whatever kills a run, the same command goes on, and the end has the bits of an undisturbed run.

kills.py PROGRAM [--kills 30] [--seed 1] [--chain 4]

A third of the kills come while a checkpoint is written, a third at other named places (LONGLORA_FAULT), a third from outside
at random times: one rank, mpirun alone, or all of it at once. After at most `chain` kills a run may end and is compared:
trainables, moments, losses and evaluations in each bit, each step and each evaluation once.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "app"))
import program  # noqa: E402
from program import h5py, np  # noqa: E402

RANKS = 2
STEPS = 8
LENGTH = 64
# The embedding is just above the size from which all ranks write a tensor together (io/checkpoint_writer.cpp).
OPTIONS = {**program.TINY, "model.vocabulary": 8200, "model.tied": "true", "sequence.length": LENGTH,
           "attention.group": 16, "rope.scaling": "linear", "rope.factor": 2, "train.batch": 2, "train.steps": STEPS,
           "train.learning_rate": 1e-2, "train.warmup_steps": 2, "tune.dropout": 0.1, "train.checkpoint_every": 2,
           "run.keep": 2, "evaluate.every": 4, "evaluate.contexts": "32,64", "evaluate.tokens": 128,
           "parallel.sequence": RANKS, "sequence.chunks": 2}
SAVING = ("checkpoint", "checkpoint_write", "publish", "published", "prune")
KEEPS_HANGING = os.environ.get("LONGLORA_KEEPS_HANGING") == "1"  # for a debugger
PATIENCE = 240  # seconds until a run counts as hanging; a machine with other work starves one for minutes


class Failure(Exception):
    pass


def words(options):
    return program.command_line(["train"], options, RANKS)


def start(options, **faults):
    return subprocess.Popen(words(options), env={**program.environment(), "OMPI_MCA_odls_base_sigkill_timeout": "0", **faults},
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            errors="replace", start_new_session=True)


def children_of(pid):
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def wait_for_end(process, ranks):
    """Exit code and output, once mpirun and `ranks` are gone: a rank may outlive its mpirun for a moment."""
    try:
        out, _ = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        alive = children_of(process.pid) + [process.pid]
        states = [Path(f"/proc/{pid}/status").read_text().split("\n")[0:3:2] for pid in alive]
        if KEEPS_HANGING:
            raise Failure(f"no end after {PATIENCE} s: {alive} {states}") from None
        for pid in alive:
            os.kill(pid, signal.SIGKILL)
        raise Failure(f"no end after {PATIENCE} s: {states}") from None
    limit = time.monotonic() + PATIENCE
    while any(Path(f"/proc/{pid}").exists() for pid in ranks):
        if time.monotonic() > limit:
            raise Failure("ranks outlive their mpirun")
        time.sleep(0.01)
    return process.returncode, out


def kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def read_counts(path):
    """name -> how often rank 0 passes it, from LONGLORA_FAULT_COUNTS."""
    lines = Path(f"{path}.0").read_text().splitlines()
    return {name: int(count) for name, count in (line.split() for line in lines)}


class Undisturbed:
    """The run to compare with, and what the draws need to know: seconds, and how often each place is passed."""

    def __init__(self, folder):
        self.options = {**OPTIONS, "data.train": program.write_tokens(folder / "train.npy", 24, LENGTH, 8200),
                        "data.validation": program.write_tokens(folder / "validation.npy", 4, LENGTH, 8200, seed=2)}
        self.folder = folder / "undisturbed"
        begin = time.monotonic()
        code, out = wait_for_end(start(self.options_for(self.folder), LONGLORA_FAULT_COUNTS=str(folder / "counts")), [])
        self.seconds = time.monotonic() - begin
        if code != 0:
            raise Failure(out)
        self.counts = read_counts(folder / "counts")
        if not self.counts:
            raise Failure("the program has no fault points: build it with LONGLORA_TESTS=ON")
        self.places = {name: count for name, count in self.counts.items() if name not in SAVING}
        self.places["load"] = 1  # passed by a resumed run only

    def options_for(self, folder):
        return {**self.options, "run.directory": folder}


class Draw:
    """One kill: LONGLORA_FAULT, or someone outside at some time."""

    def __init__(self, dice, undisturbed, third, before):
        self.dice, self.seconds, self.victim, self.faults = dice, None, None, {}
        if third == "outside":
            self.seconds = dice.random() * undisturbed.seconds
            self.victim = dice.choice(("rank", "mpirun", "all"))
            self.text = f"{self.victim} after {self.seconds:.2f} s"
            return
        counts = undisturbed.counts if third == "saving" else undisturbed.places
        name = dice.choice(SAVING if third == "saving" else sorted(counts))
        hit = 1 + int(counts[name] * dice.random() ** 2 / (1 + before))  # a resumed run has fewer steps to go
        rank = dice.choice((":0", ":0", ":1", ""))
        self.text = f"{name}:{hit}{rank}"
        self.faults = {"LONGLORA_FAULT": self.text}

    def strike(self, process):
        """The ranks' process ids."""
        if self.seconds is None:
            return []
        try:
            process.wait(self.seconds)
        except subprocess.TimeoutExpired:
            pass
        ranks = children_of(process.pid)
        if self.victim == "rank" and ranks:
            kill(self.dice.choice(ranks))
        if self.victim != "rank":
            kill(process.pid)
        if self.victim == "all":
            for rank in ranks:
                kill(rank)
        return ranks


def tensors_of(folder):
    path = program.checkpoint(folder, STEPS)
    return {f"{group}/{name}": value for group in ("trainable", "moments")
            for name, value in program.read_tensors(path, group).items()}


def evaluations_of(folder):
    with h5py.File(folder / "log.h5", "r") as file:
        rows = {name: dataset[:].tolist() for name, dataset in file["evaluations"].items()}
    return sorted(zip(*(rows[name] for name in sorted(rows))))


def compare(folder, expected_folder):
    found, expected = tensors_of(folder), tensors_of(expected_folder)
    if found.keys() != expected.keys():
        raise Failure(f"other tensors: {found.keys() ^ expected.keys()}")
    for name, value in expected.items():
        if not np.array_equal(found[name].view(np.uint32), value.view(np.uint32)):
            raise Failure(f"{name} has other bits")
    steps, expected_steps = (program.read_steps(each / "log.h5") for each in (folder, expected_folder))
    if steps["step"].tolist() != list(range(1, STEPS + 1)):
        raise Failure(f"steps of the log: {steps['step'].tolist()}")
    for name in ("loss", "gradient_norm", "learning_rate", "tokens"):
        if steps[name].tobytes() != expected_steps[name].tobytes():
            raise Failure(f"{name} of the log has other bits")
    if evaluations_of(folder) != evaluations_of(expected_folder):
        raise Failure(f"evaluations: {evaluations_of(folder)}\ninstead of {evaluations_of(expected_folder)}")
    left = [path.name for path in folder.rglob("*") if ".tmp" in path.name or "damaged" in path.name]
    if left:
        raise Failure(f"left behind: {left}")


class Soak:
    def __init__(self, folder, arguments):
        self.folder, self.arguments = folder, arguments
        self.dice = random.Random(arguments.seed)
        self.undisturbed = Undisturbed(folder)
        self.kills, self.runs, self.by_third = 0, 0, {"saving": 0, "place": 0, "outside": 0}

    def run(self):
        while self.kills < self.arguments.kills:
            self.chain(self.folder / f"run{self.runs}")
            self.runs += 1
            print(f"{self.kills} kills, {self.runs} runs", flush=True)

    def chain(self, folder):
        """Kills one run again and again, lets it end, compares."""
        history = []
        try:
            options = self.undisturbed.options_for(folder)
            while len(history) < self.arguments.chain and self.kills < self.arguments.kills:
                if not self.kill_once(options, history):
                    break
            begin = time.monotonic()
            code, out = wait_for_end(start(options), [])
            self.undisturbed.seconds = time.monotonic() - begin  # what the machine does beside this changes
            if code != 0:
                raise Failure(f"exit {code}\n{out}")
            self.compare(folder)
        except Failure as failure:
            raise Failure(f"seed {self.arguments.seed}, run {folder}, kills {history}: {failure}") from None
        shutil.rmtree(folder)

    def compare(self, folder):
        try:
            compare(folder, self.undisturbed.folder)
        except (OSError, KeyError) as error:
            raise Failure(f"unreadable: {error}") from None

    def kill_once(self, options, history):
        """False where the run ended before the kill came."""
        third = min(self.by_third, key=self.by_third.get)
        draw = Draw(self.dice, self.undisturbed, third, len(history))
        history.append(draw.text)
        process = start(options, **draw.faults)
        ranks = draw.strike(process)
        code, out = wait_for_end(process, ranks)
        if code == 0:
            history.pop()
            return False
        if code in (2, 75) or "longlora_hpc: " in out.replace("longlora_hpc: warning: ", ""):
            raise Failure(f"exit {code}\n{out}")
        self.kills += 1
        self.by_third[third] += 1
        return True


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--chain", type=int, default=4)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="longlora-kills-"))
    begin = time.monotonic()
    try:
        soak = Soak(folder, arguments)
        soak.run()
    except Failure as failure:
        print(f"{failure}\nthe folder is kept: {folder}")
        return 1
    shutil.rmtree(folder)
    print(f"{soak.kills} kills {soak.by_third} in {soak.runs} runs, {time.monotonic() - begin:.0f} s: "
          "all ended with the bits of the undisturbed run")
    return 0


if __name__ == "__main__":
    sys.exit(main())
