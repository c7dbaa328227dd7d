"""What the benchmarks share: running the program while its ranks are looked at, the machine's FMA peak, tables.

They need h5py and numpy, and a build: program and fma_bench are taken from build/ unless --program names another one.
"""

import argparse
import datetime
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import h5py

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "app"))

import program  # noqa: E402

GIGA = 1e9
MIB = 2.0**20
STEP_LINE = re.compile(r"step +(\d+)/\d+  loss .* left$")


def cores():
    return len(os.sched_getaffinity(0))


def environment(threads):
    """As scripts/environment.sh has it: ranks that wait give their core away, and none is bound to one core."""
    return {**os.environ, **program.ENVIRONMENT, "OMP_NUM_THREADS": str(threads)}


# ---- running


class Run:
    """One start of the program: exit code 0, its output, /steps of its log, and what its ranks took."""

    def __init__(self):
        self.out, self.seconds, self.steps, self.attributes = "", 0.0, {}, {}
        self.peak_bytes = 0.0  # resident, of the largest rank, from first to last moment
        self.faults = []  # of all ranks so far, whenever a step had ended

    def total(self, name, first=0):
        return float(self.steps[name][first:].sum())

    def later_faults(self):
        """In step 2, when the log is written for the first time, and the most in a later one; not of the last step,
        which a checkpoint follows."""
        steps = [after - before for before, after in zip(self.faults, self.faults[1:-1])]
        return (steps[0], max(steps[1:])) if len(steps) > 1 else None

    def phases(self, first):
        """Share of the seconds of the steps from `first` on, by phase, mean of the ranks."""
        found = {match[1]: self.total(name, first) / self.total("seconds", first)
                 for name in self.steps if (match := re.fullmatch(r"seconds_(\w+)_mean", name))}
        return {**found, "other": 1 - sum(found.values())}

    def communication(self, first):
        phases = self.phases(first)
        return phases["halo_wait"] + phases["gradient_sync"] + phases["weight_gather"]


class Ranks:
    """The processes below mpirun, looked at through /proc."""

    def __init__(self, mpirun, ranks):
        self.mpirun, self.count, self.pids = mpirun, ranks, []
        self.peaks = {}

    def find(self):
        if len(self.pids) < self.count:
            try:
                text = Path(f"/proc/{self.mpirun}/task/{self.mpirun}/children").read_text()
            except OSError:
                return
            self.pids = text.split()[:self.count]

    def note_peaks(self):
        self.find()
        for pid in self.pids:
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue  # has ended
            if match := re.search(r"VmHWM:\s+(\d+) kB", status):
                self.peaks[pid] = 1024.0 * int(match[1])

    def faults(self):
        self.find()
        total = 0
        for pid in self.pids:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[7]) + int(fields[9])  # minflt, majflt: fields 10 and 12 of the whole line
        return total


def start(words, ranks, threads, launcher=()):
    """`launcher` goes between mpirun and the program, as in ("chrt", "-r", "1")."""
    line = ["mpirun", "-np", str(ranks), *launcher, *map(str, words)]
    run = Run()
    begin = time.monotonic()
    with tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(line, env=environment(threads), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=errors, text=True) as process:
            watched = Ranks(process.pid, ranks)
            ended = threading.Event()
            watcher = threading.Thread(target=lambda: watch(watched, ended))
            watcher.start()
            lines = []
            for text in process.stdout:
                lines.append(text)
                if STEP_LINE.match(text.rstrip()):
                    run.faults.append(watched.faults())
        ended.set()
        watcher.join()
        errors.seek(0)
        if process.returncode != 0:
            said = "".join(lines)[-2000:] + errors.read()[-2000:]
            sys.exit(f"{' '.join(line)}\nended with {process.returncode}\n{said}")
    run.seconds = time.monotonic() - begin
    run.out = "".join(lines)
    run.peak_bytes = max(watched.peaks.values(), default=0.0)
    return run


def watch(ranks, ended):
    while not ended.wait(0.1):
        ranks.note_peaks()


def train(executable, options, ranks, threads, launcher=()):
    """Trains in a folder of its own, which goes away."""
    with tempfile.TemporaryDirectory(prefix="longlora-bench-") as folder:
        settings = {**options, "run.directory": f"{folder}/run", "parallel.threads": threads, "train.checkpoint_every": 0}
        run = start([executable, "train", *program.option_words(settings)], ranks, threads, launcher)
        log = Path(folder) / "run" / "log.h5"
        run.steps = program.read_steps(log)
        with h5py.File(log, "r") as file:
            run.attributes = dict(file.attrs)
    return run


def tokens(folder, rows, length, vocabulary):
    return program.write_tokens(Path(folder) / f"tokens-{length}.npy", rows, length, vocabulary)


# ---- the machine


class Peak:
    """FMA rates in FLOP/s, measured again and again during a benchmark."""

    def __init__(self, executable, threads):
        self.bench = Path(executable).resolve().parent / "tests" / "fma_bench"
        if not self.bench.is_file():
            sys.exit(f"{self.bench} is missing: build with the tests")
        self.threads, self.best, self.means = threads, 0.0, []

    def measure(self):
        out = subprocess.run([self.bench, str(self.threads)], stdout=subprocess.PIPE, text=True, check=True).stdout
        rates = dict(word.split("=") for word in out.splitlines()[-1].split())
        self.best = max(self.best, GIGA * float(rates["best"]))
        self.means.append(GIGA * float(rates["mean"]))

    def __str__(self):
        return (f"FMA peak of {self.threads} threads: best {self.best / GIGA:.1f}, mean of {len(self.means)} seconds "
                f"{statistics.mean(self.means) / GIGA:.1f} (lowest {min(self.means) / GIGA:.1f}) GFLOP/s")


def processor():
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    match = re.search(r"model name\s*: (.*)", text)
    return match[1].strip() if match else platform.machine()


def commit():
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    return subprocess.run(git, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout.strip() or "no git"


def cores_in_use(seconds=1.0):
    """By others, just now: a load average still has in it what ended a minute ago."""
    def busy():
        user, nice, system = map(int, Path("/proc/stat").read_text().split()[1:4])
        return (user + nice + system) / os.sysconf("SC_CLK_TCK")

    before = busy()
    time.sleep(seconds)
    return (busy() - before) / seconds


def announce():
    """What a figure in a README has beside it: command, commit, date, machine."""
    load = cores_in_use()
    print(" ".join(sys.argv))
    print(f"commit {commit()}, {datetime.date.today()}, {cores()} cores of {processor()}, {load:.1f} of them in use\n",
          flush=True)
    if load > 0.1 * cores():
        print("the machine is not idle: other processes take part of what is measured here\n", flush=True)


# ---- telling


def table(header, rows):
    """Markdown that reads as plain text, too."""
    texts = [list(map(str, row)) for row in [header, *rows]]
    widths = [max(map(len, column)) for column in zip(*texts)]
    lines = ["| " + " | ".join(cell.rjust(width) for cell, width in zip(row, widths)) + " |" for row in texts]
    lines.insert(1, "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|")
    print("\n".join(lines) + "\n", flush=True)


def percent(share):
    return f"{100 * share:.1f} %"


def parser(description):
    options = argparse.ArgumentParser(description=description.partition("\n")[0])
    options.add_argument("--program", type=Path, action="append", help="an executable; default build/longlora_hpc")
    options.add_argument("--launcher", default="", help="what starts a rank, as in --launcher='chrt -r 1'")
    return options


def parse(options):
    found = options.parse_args()
    found.program = [path.resolve() for path in found.program or [ROOT / "build" / "longlora_hpc"]]
    for path in found.program:
        if not os.access(path, os.X_OK):
            sys.exit(f"{path} is no executable: build it, or name one by --program")
    if not shutil.which("mpirun"):
        sys.exit("there is no mpirun on the PATH")
    found.launcher = tuple(found.launcher.split())
    return found


def numbers(text):
    """65536,1048576 as a list; nothing as none."""
    return [int(word) for word in text.split(",") if word]
