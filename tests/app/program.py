"""What the tests of the whole program share: starting it under mpirun, tokens and small models, reading what it wrote.

A test is called with the executable: layouts_test.py build/longlora_hpc [unittest arguments].
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

try:
    import h5py
    import numpy as np
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
sys.path.insert(0, str(ROOT / "tests" / "oracle"))  # its cases make models and adapters of any kind

# More ranks than cores, as root in a container, a waiting rank gives its core away.
ENVIRONMENT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
               "OMPI_MCA_rmaps_base_oversubscribe": "1", "OMPI_MCA_mpi_yield_when_idle": "1",
               "OMPI_MCA_hwloc_base_binding_policy": "none", "OMP_NUM_THREADS": "1"}

# A sanitizer multiplies time and memory.
IS_SANITIZED = os.environ.get("LONGLORA_SANITIZED") == "1"

VOCABULARY = 61
# Random weights of these sizes: smaller than a test's start-up, with grouped queries.
TINY = {"model.width": 32, "model.layers": 2, "model.heads": 4, "model.kv_heads": 2, "model.mlp_width": 56,
        "model.vocabulary": VOCABULARY}


def executable():
    return Path(sys.argv[1]).resolve()


# ---- running


def option_words(options):
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def command_line(command, options, ranks):
    """`command` is a list of words: a command, switches. No mpirun for ranks = 0: MPI allows to start alone."""
    launcher = ["mpirun", "-np", str(ranks)] if ranks else []
    return launcher + [str(executable())] + list(command) + option_words(options)


def environment():
    return {**os.environ, **ENVIRONMENT}


class Result:
    """Exit code, output, seconds; `said` is what the program itself wrote to stderr, line by line."""

    def __init__(self, command, code, out, err, seconds):
        self.command, self.code, self.out, self.err, self.seconds = command, code, out, err, seconds

    @property
    def said(self):
        return [line for line in without_mpirun(self.err).splitlines() if line.strip()]

    @property
    def complaints(self):
        return [line for line in self.said if line.startswith("longlora_hpc: ") and not is_warning(line)]

    @property
    def warnings(self):
        return [line for line in self.said if is_warning(line)]

    def __str__(self):
        return f"{' '.join(self.command)}\nexit {self.code} after {self.seconds:.1f} s\n{self.out[-3000:]}\n{self.err[-3000:]}"


def is_warning(line):
    return line.startswith("longlora_hpc: warning: ")


def without_mpirun(err):
    """mpirun speaks between rulers, and counts the ranks it has ended."""
    text = re.sub(r"^-{20,}\n.*?^-{20,}\n", "", err, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^\[.*?:\d+\] .*\n", "", text, flags=re.MULTILINE)


def run(command=(), options={}, ranks=1, timeout=280, **process):
    """`process`: what subprocess.run takes besides, such as cwd."""
    words = command_line(command, options, ranks)
    start = time.monotonic()
    ended = subprocess.run(words, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE, text=True, errors="replace", timeout=timeout, **process)
    return Result(words, ended.returncode, ended.stdout, ended.stderr, time.monotonic() - start)


def train(options, ranks=1, **rest):
    """Trains and expects success."""
    result = run(["train"], options, ranks, **rest)
    if result.code != 0:
        raise AssertionError(str(result))
    return result


def ask_to_stop(mpirun):
    mpirun.send_signal(signal.SIGUSR1)


def kill_a_rank(mpirun):
    children = Path(f"/proc/{mpirun.pid}/task/{mpirun.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)


def interrupt(options, ranks, log, steps, act, timeout=120):
    """Trains, calls act(mpirun) once `log` holds so many steps; the Result, its seconds counted from there."""
    words = command_line(["train"], options, ranks)
    start = time.monotonic()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(words, env=environment(), stdin=subprocess.DEVNULL, stdout=out, stderr=err, text=True)
        try:
            while logged_steps(log) < steps and process.poll() is None and time.monotonic() - start < timeout:
                time.sleep(0.01)
            start = time.monotonic()
            act(process)
            process.wait(timeout)
        finally:
            process.kill()
            process.wait()
        out.seek(0)
        err.seek(0)
        return Result(words, process.returncode, out.read(), err.read(), time.monotonic() - start)


# ---- making


def random_tokens(count, vocabulary=VOCABULARY, seed=1):
    return np.random.default_rng(seed).integers(0, vocabulary, count, dtype=np.int32)


def write_tokens(path, rows, length, vocabulary=VOCABULARY, seed=1):
    """Random rows as .npy; returns the path."""
    np.save(path, random_tokens(rows * (length + 1), vocabulary, seed))
    return path


# ---- reading


def logged_steps(path):
    """Steps in a log.h5 that may be growing, or not be there yet."""
    try:
        with h5py.File(path, "r", libver="latest", swmr=True) as file:
            return len(file["steps/step"])
    except (OSError, KeyError):
        return 0


def read_steps(path):
    """name -> values of /steps of a log.h5."""
    with h5py.File(path, "r") as file:
        return {name: dataset[:] for name, dataset in file["steps"].items()}


def read_evaluations(path):
    """(model, context) -> the newest perplexity of /evaluations."""
    with h5py.File(path, "r") as file:
        rows = {name: dataset[:] for name, dataset in file["evaluations"].items()}
    models = [model.decode() if isinstance(model, bytes) else str(model) for model in rows["model"]]
    return {(model, int(context)): float(value)
            for model, context, value in zip(models, rows["context"], rows["perplexity"])}


def read_tensors(path, group):
    """Path below `group` -> tensor, at any depth."""
    tensors = {}

    def note(name, item):
        if isinstance(item, h5py.Dataset):
            tensors[name] = item[()]

    with h5py.File(path, "r") as file:
        file[group].visititems(note)
    return tensors


def read_gradients(path):
    """(loss, name -> gradient) of a train.dump_gradients file."""
    with h5py.File(path, "r") as file:
        loss = float(np.asarray(file["loss"]).reshape(()))
    return loss, read_tensors(path, "gradients")


def checkpoint(folder, step):
    return Path(folder) / "checkpoints" / f"step-{step:08d}.h5"


def relative(a, b):
    """|a - b| / |b|; a NaN counts as infinitely far."""
    norm = np.linalg.norm(np.float64(b))
    error = np.linalg.norm(np.float64(a) - np.float64(b)) / norm if norm > 0 else np.linalg.norm(np.float64(a))
    return float(error) if np.isfinite(error) else np.inf


# ---- testing


class ProgramTest(unittest.TestCase):
    """Each test has a folder of its own, self.folder."""

    @classmethod
    def make_common_folder(cls):
        """cls.common, for what all tests of a class share; for setUpClass."""
        temporary = tempfile.TemporaryDirectory(prefix="longlora-")
        cls.addClassCleanup(temporary.cleanup)
        cls.common = Path(temporary.name)

    def setUp(self):
        temporary = tempfile.TemporaryDirectory(prefix="longlora-")
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)

    def assert_close(self, computed, expected, limit, what):
        error = relative(computed, expected)
        self.assertLessEqual(error, limit, f"{what} is off by {error:.1e}")
        return error

    def assert_code(self, result, code):
        self.assertEqual(result.code, code, str(result))


def main():
    unittest.main(argv=[sys.argv[0]] + sys.argv[2:])
