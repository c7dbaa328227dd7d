"""What the parts of gpu_check.py share: the bundle, a budget of seconds, rows of the table, programs under a time limit."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

BENCH = Path(__file__).resolve().parent
GIGA, TERA, MIB, GIB = 1e9, 1e12, 2.0**20, 2.0**30
SKIPPED = 77


# ---- what is measured


class Bundle:
    """A folder of scripts/bundle.sh, or a build folder: what is looked for is found by its name."""

    def __init__(self, root):
        self.root = Path(root).resolve()
        if not self.root.is_dir():
            sys.exit(f"{self.root} is no folder: make it by scripts/bundle.sh --with-tests DIR")

    def find(self, name):
        """The executable nearest to the top, or None."""
        return min(self.all(name), key=lambda path: len(path.parts), default=None)

    def all(self, pattern):
        return sorted(path for path in self.root.rglob(pattern)
                      if path.is_file() and os.access(path, os.X_OK) and "CMakeFiles" not in path.parts)

    def environment(self):
        """Where CUDA's libraries lie, of the system or of PyTorch, and what bundle_start.sh sets for the program: tests
        and benchmarks are started without it."""
        folders = [str(folder) for folder in cuda_folders()]
        found = {**os.environ, "LONGLORA_CUDA_LIBRARIES": ":".join(folders),
                 "LD_LIBRARY_PATH": ":".join(filter(None, [*folders, os.environ.get("LD_LIBRARY_PATH", "")])),
                 "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
                 "OMPI_MCA_rmaps_base_oversubscribe": "1", "OMPI_MCA_mpi_yield_when_idle": "1",
                 "OMPI_MCA_hwloc_base_binding_policy": "none"}
        if (self.root / "bin" / "mpirun").exists():
            found.update(OPAL_PREFIX=str(self.root), PMIX_PKGLIBDIR=str(self.root / "lib" / "pmix"))
        return found


def cuda_folders():
    places = [Path("/usr/local/cuda/lib64"), Path(sys.prefix) / "lib"]
    places += [folder for path in sys.path for folder in sorted(Path(path or ".").glob("nvidia/*/lib"))]
    return [place for place in places if any(place.glob("libcublasLt.so*")) or any(place.glob("libnccl.so*"))]


class Budget:
    """Seconds that a part may take, from now."""

    def __init__(self, seconds):
        self.end = time.monotonic() + seconds

    def left(self):
        return max(0.0, self.end - time.monotonic())

    def allows(self, seconds):
        return self.left() >= seconds


# ---- running


class Result:
    def __init__(self, code, out, seconds, is_late):
        self.code, self.out, self.seconds, self.is_late = code, out, seconds, is_late

    def reason(self):
        """Why it failed, in a line."""
        if self.is_late:
            return f"cut off after {self.seconds:.0f} s"
        lines = [line.strip() for line in self.out.splitlines() if line.strip()]
        return f"exit {self.code}: {lines[-1] if lines else 'no output'}"[:160]

    def lines(self):
        """name=value lines as dictionaries; numbers are numbers."""
        found = []
        for line in self.out.splitlines():
            words = [word.partition("=") for word in line.split()]
            if words and all(equals for _, equals, _ in words):
                found.append({key: number(value) for key, _, value in words})
        return found


def number(text):
    try:
        return float(text)
    except ValueError:
        return text


class Runner:
    """Starts programs, writes what they say to the log, ends them with all their children when time is up."""

    def __init__(self, log, environment):
        self.log, self.environment = log, environment

    def note(self, text):
        with open(self.log, "a", encoding="utf-8") as file:
            file.write(text.rstrip() + "\n")

    def run(self, words, limit, is_done=None, environment=None):
        """is_done: asked several times a second; once true, the program is ended and counts as one that ended well.
        environment: instead of the bundle's."""
        words = [str(word) for word in words]
        self.note(f"\n$ {' '.join(words)}")
        begin = time.monotonic()
        with subprocess.Popen(words, env=environment or self.environment, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                              start_new_session=True) as process:
            said = []
            reader = threading.Thread(target=lambda: said.extend(process.stdout))
            reader.start()
            ending = wait(process, begin + limit, is_done)
            if ending:
                end(process, is_late=ending == "late")
            code = process.wait()
            reader.join(10)
        result = Result(0 if ending == "done" else code, "".join(said), time.monotonic() - begin, ending == "late")
        self.note(f"{result.out}# {'cut off' if result.is_late else f'exit {result.code}'}, {result.seconds:.1f} s")
        return result


def wait(process, end, is_done):
    """'' when it has ended by itself, else why it must be ended."""
    while True:
        try:
            process.wait(0.2)
            return ""
        except subprocess.TimeoutExpired:
            if is_done and is_done():
                return "done"
            if time.monotonic() > end:
                return "late"


def end(process, is_late):
    """A late mpirun gets the time to end its ranks, which are no children of ours."""
    if is_late:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            pass
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


class MemoryInUse:
    """The most bytes in use while the block runs: on the GPU by all processes, of the host beyond what was used before
    (pinned memory of CUDA's own is not in a process's resident size). nan where nobody says."""

    def __enter__(self):
        self.device, self.process, self.ended = math.nan, None, threading.Event()
        self.before = self.most = used_by_host()
        self.watcher = threading.Thread(target=self.watch_host, daemon=True)
        self.watcher.start()
        if tool := shutil.which("nvidia-smi"):
            words = [tool, "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-i", "0", "-lms", "200"]
            self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            self.reader = threading.Thread(target=self.read_device, daemon=True)
            self.reader.start()
        return self

    @property
    def host(self):
        return self.most - self.before

    def watch_host(self):
        while not self.ended.wait(0.2):
            self.most = max(self.most, used_by_host())

    def read_device(self):
        for line in self.process.stdout:
            if line.strip().isdigit():
                used = MIB * int(line)
                self.device = used if math.isnan(self.device) else max(self.device, used)

    def __exit__(self, *_):
        self.ended.set()
        self.watcher.join()
        if self.process:
            self.process.kill()
            self.process.wait()
            self.reader.join(5)


def used_by_host():
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        values = {line.split(":")[0]: 1024.0 * int(line.split()[1]) for line in lines}
        return values["MemTotal"] - values["MemAvailable"]
    except (OSError, KeyError, ValueError):
        return math.nan


# ---- telling

HEADER = ("part", "what", "measured", "beside it", "ratio", "aim", "remark")


class Table:
    """Rows, appended to a file as they are found: what is cut off later has been told."""

    def __init__(self, path):
        self.path = path

    def add(self, part, what, measured, beside="", ratio="", aim="", remark="", **values):
        row = dict(zip(HEADER, map(str, (part, what, measured, beside, ratio, aim, remark))))
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({**row, "values": values}) + "\n")
        print("  " + "  ".join(filter(None, list(row.values())[1:])), flush=True)

    def rows(self):
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]

    def value(self, part, what, name):
        """Of the newest such row; nan where there is none."""
        found = [row["values"].get(name, math.nan) for row in self.rows() if (row["part"], row["what"]) == (part, what)]
        return found[-1] if found else math.nan

    def text(self):
        """Markdown that reads as plain text, too."""
        cells = [list(HEADER), *([row[name] for name in HEADER] for row in self.rows())]
        widths = [max(map(len, column)) for column in zip(*cells)]
        lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in cells]
        lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
        return "\n".join(lines) + "\n"


def share(part, whole):
    return "" if math.isnan(part / whole) else f"{100 * part / whole:.1f} %"


def tera(flop_per_second):
    return f"{flop_per_second / TERA:.1f} TFLOP/s"


def gib(count):
    return "" if math.isnan(count) else f"{count / GIB:.2f} GiB"
