"""Checks and measures the program on a GPU, prints one table:  gpu_check.py --bundle DIR --out DIR [PART...]

Started by scripts/gpu_check.sh, whose first lines say how. PART: tests sanitizer rates attention small step streaming ranks;
none: all. DIR of --out gets log.txt (what was run and said), rows.jsonl (the table's rows, for programs) and table.md; rows
are added to those that are there, so parts may be run one at a time.
"""

import argparse
import datetime
import os
import shutil
import subprocess
import sys
from pathlib import Path

import gpu
import gpu_kernels
import gpu_scale
import gpu_tests
import gpu_training

PARTS = {"tests": gpu_tests.tests, "sanitizer": gpu_tests.sanitizer, "rates": gpu_kernels.rates,
         "attention": gpu_kernels.attention, "small": gpu_kernels.small, "step": gpu_training.step,
         "streaming": gpu_training.streaming, "ranks": gpu_training.ranks}


class Check:
    """What a part is given."""

    def __init__(self, options):
        self.bundle, self.scale = gpu.Bundle(options.bundle), gpu_scale.scaled(options)
        self.out = options.out.resolve()
        self.out.mkdir(parents=True, exist_ok=True)
        self.table = gpu.Table(self.out / "rows.jsonl")
        self.runner = gpu.Runner(self.out / "log.txt", self.bundle.environment())
        self.python, self.scratch, self.expects_gpu = options.python, options.scratch, not options.emulated
        self.device, self.torch_device = ("cuda", "cpu") if options.emulated else ("cuda", "cuda")
        self.budget, self.part, self.failures = gpu.Budget(options.seconds), "", 0

    def begin(self, part, seconds):
        self.part, self.budget = part, gpu.Budget(seconds)
        print(part, flush=True)

    def add(self, what, measured="", beside="", ratio="", aim="", remark="", **values):
        self.table.add(self.part, what, measured, beside, ratio, aim, remark, **values)

    def fail(self, what, reason):
        self.failures += 1
        self.add(what, "FAILED", remark=reason)

    def beside(self, what, words):
        """The lines of a script that measures PyTorch; told as a row where it failed or lacks a package."""
        result = self.runner.run([self.python, "-W", "ignore", *words], self.budget.left(), environment=os.environ)
        if result.code == gpu.SKIPPED:
            self.add(what, "not run", remark=result.reason())
        elif result.code != 0 or result.is_late:
            self.fail(what, result.reason())
        return result.lines()

    def cut_off(self):
        self.add("rest", "not run", remark="the time of this part was up")


def machine():
    """The GPU and its driver, as nvidia-smi calls them."""
    tool = shutil.which("nvidia-smi")
    if not tool:
        return "no nvidia-smi"
    query = [tool, "--query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit", "--format=csv,noheader"]
    return subprocess.run(query, stdout=subprocess.PIPE, text=True, check=False).stdout.strip().replace("\n", "; ")


def versions(python):
    """Of what is compared with."""
    code = """import importlib.metadata as m
for name in ("torch", "transformers", "peft"):
    try:
        print(name, m.version(name))
    except m.PackageNotFoundError:
        print("no", name)"""
    said = subprocess.run([python, "-c", code], stdout=subprocess.PIPE, text=True, check=True).stdout
    return ", ".join(said.splitlines())


def arguments():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("parts", nargs="*", metavar="PART", help=" ".join(PARTS))
    options.add_argument("--bundle", type=Path, required=True, help="folder of bundle.sh --with-tests, or a build folder")
    options.add_argument("--out", type=Path, required=True, help="folder for the three files")
    options.add_argument("--seconds", type=float, default=470, help="that each part may take")
    options.add_argument("--total-seconds", type=float, default=1500, help="that all of them may take")
    options.add_argument("--quick", dest="scale", action="store_const", const="quick", default="full", help="a minute or two")
    options.add_argument("--tiny", dest="scale", action="store_const", const="tiny", help="sizes for an emulated GPU")
    options.add_argument("--emulated", action="store_true", help="no GPU is expected; PyTorch runs on the CPU")
    options.add_argument("--python", default=sys.executable, help="a Python with torch, transformers and peft")
    options.add_argument("--scratch", default=os.environ.get("TMPDIR", "/tmp"), help="for runs: some GB, they go away")
    options.add_argument("--set", action="append", default=[], metavar="PART.KEY=VALUE", help="instead of a scale's value")
    found = options.parse_args()
    if unknown := [part for part in found.parts if part not in PARTS]:
        sys.exit(f"{unknown[0]} is none of the parts: {' '.join(PARTS)}")
    return found


def main():
    options = arguments()
    check = Check(options)
    check.part = "machine"
    check.add(machine(), remark=f"{datetime.date.today()}, {versions(options.python)}; {' '.join(sys.argv[1:])}")
    total = gpu.Budget(options.total_seconds)
    for part in options.parts or PARTS:
        check.begin(part, min(options.seconds, total.left()))
        try:
            PARTS[part](check)
        except Exception as error:  # noqa: BLE001  the other parts are worth running
            check.fail("part", f"{type(error).__name__}: {error}"[:200])
    text = check.table.text()
    (check.out / "table.md").write_text(text, encoding="utf-8")
    print("\n" + text)
    return 1 if check.failures else 0


if __name__ == "__main__":
    sys.exit(main())
