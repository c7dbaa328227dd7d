"""Runs the program on the oracle's cases and compares loss, gradients and trained weights with expected/<case>.npz.

    check.py --program build/longlora_hpc [--ranks R] [--case NAME ...] [-- --section.key VALUE ...]

What follows `--` goes to the program, for instance a layout: -- --parallel.sequence 2 --sequence.chunks 2
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import h5py
    import numpy as np
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

import cases

# Relative; of single-precision runs. Gradients and weights are compared tensor by tensor: |a - b| / |b|.
LOSS_LIMIT = 1e-6
GRADIENT_LIMIT = 1e-4
TRAINED_LIMIT = 1e-5

# More ranks than cores, as root in a container, and no rank bound to the core of another.
MPI_ENVIRONMENT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
                   "OMPI_MCA_rmaps_base_oversubscribe": "1", "OMPI_MCA_hwloc_base_binding_policy": "none",
                   "OMP_NUM_THREADS": "1"}


class Mismatch(Exception):
    """The case failed; the message says why."""


# ---- running


def last_words(output):
    """What the program said before it ended, without the lines that mpirun adds below a ruler."""
    said = output.split("-" * 74)[0].strip() or output.strip()
    return "\n    ".join(said.splitlines()[-8:])


def run_program(arguments, folder, options):
    command = ["timeout", "--kill-after=5", str(arguments.timeout), "mpirun", "-np", str(arguments.ranks),
               str(arguments.program), "train"]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    command += arguments.extra
    result = subprocess.run(command, cwd=folder, env={**os.environ, **MPI_ENVIRONMENT},
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    options["run.directory"].with_suffix(".log").write_text(" ".join(command) + "\n" + result.stdout)
    if result.returncode != 0:
        raise Mismatch(f"exit code {result.returncode}:\n    {last_words(result.stdout)}")


def one_step_options(folder):
    return {"run.directory": folder / "one_step", "train.steps": 1, "train.dump_gradients": folder / "gradients.h5"}


def adamw_options(folder):
    return {"run.directory": folder / "adamw", "train.steps": cases.ADAMW["steps"], "train.schedule": "constant",
            "train.learning_rate": cases.ADAMW["learning_rate"], "train.warmup_steps": cases.ADAMW["warmup_steps"],
            "train.weight_decay": cases.ADAMW["weight_decay"], "train.clip_norm": cases.ADAMW["clip_norm"]}


# ---- reading


def read_group(path, group):
    if not path.is_file():
        raise Mismatch(f"the program wrote no {path.name}")
    with h5py.File(path, "r") as file:
        if group not in file:
            raise Mismatch(f"{path.name} has no /{group}")
        return {name: np.asarray(dataset) for name, dataset in file[group].items()}


def read_loss(path):
    with h5py.File(path, "r") as file:
        if "loss" not in file:
            raise Mismatch(f"{path.name} has no /loss")
        return float(np.asarray(file["loss"]).reshape(()))


def read_expected(case, inputs):
    with np.load(cases.expected_path(case)) as stored:
        expected = {name: stored[name] for name in stored.files}
    if str(expected.pop("inputs")) != cases.digest(case, inputs):
        raise Mismatch("the expected file was made from other inputs: run oracle.py again")
    return expected


def below(expected, prefix):
    return {name[len(prefix):]: value for name, value in expected.items() if name.startswith(prefix)}


# ---- comparing


def relative(a, b):
    """|a - b| / |b|; a NaN counts as infinitely far."""
    norm = np.linalg.norm(np.float64(b))
    error = np.linalg.norm(np.float64(a) - np.float64(b)) / norm if norm > 0 else np.linalg.norm(a)
    return float(error) if np.isfinite(error) else np.inf


def compare(kind, computed, expected, limit):
    """The worst (error, name); every tensor that is absent, extra, of another shape or type, or off is named."""
    faults = [f"{kind} {name} is missing" for name in sorted(expected.keys() - computed.keys())]
    faults += [f"{kind} {name} is not expected" for name in sorted(computed.keys() - expected.keys())]
    errors = []
    for name in sorted(expected.keys() & computed.keys()):
        a, b = computed[name], expected[name]
        if a.shape != b.shape or a.dtype != np.float32:
            faults.append(f"{kind} {name} is {a.dtype}{list(a.shape)}, expected float32{list(b.shape)}")
            continue
        errors.append((relative(a, b), name))
        if errors[-1][0] > limit:
            faults.append(f"{kind} {name} is off by {errors[-1][0]:.1e} (limit {limit:.0e})")
    if faults:
        raise Mismatch("\n    ".join(faults))
    return max(errors)


def check_loss(computed, expected):
    error = relative(computed, expected)
    if error > LOSS_LIMIT:
        raise Mismatch(f"loss is {computed:.9f}, expected {expected:.9f}: off by {error:.1e} (limit {LOSS_LIMIT:.0e})")
    return error


def check_case(arguments, case, folder):
    """The errors as text, or Mismatch."""
    inputs = cases.build(case)
    expected = read_expected(case, inputs)
    common = {**cases.write(case, inputs, folder), **cases.physics_options(case)}

    options = one_step_options(folder)
    run_program(arguments, folder, {**common, **options})
    gradients = read_group(options["train.dump_gradients"], "gradients")
    loss_error = check_loss(read_loss(options["train.dump_gradients"]), float(expected["loss"]))
    worst, name = compare("gradient", gradients, below(expected, "gradients/"), GRADIENT_LIMIT)
    text = f"{loss_error:7.1e}  {worst:7.1e}  {len(gradients):3} tensors, worst {name}"
    if not case.adamw:
        return text

    options = adamw_options(folder)
    run_program(arguments, folder, {**common, **options})
    checkpoint = options["run.directory"] / "checkpoints" / f"step-{cases.ADAMW['steps']:08d}.h5"
    worst, name = compare("trained", read_group(checkpoint, "trainable"), below(expected, "adamw/"), TRAINED_LIMIT)
    return f"{text}\n{'':45}{worst:7.1e}  after {cases.ADAMW['steps']} steps, worst {name}"


def run_case(arguments, case, root):
    """passed, failed or skipped; prints one line of the table."""
    if cases.missing_model(case):
        print(f"{case.name:26} skipped  {cases.missing_model(case)}", flush=True)
        return "skipped"
    folder = root / case.name
    folder.mkdir(parents=True)
    try:
        print(f"{case.name:26} ok       {check_case(arguments, case, folder)}", flush=True)
        return "passed"
    except Mismatch as mismatch:
        print(f"{case.name:26} FAILED\n    {mismatch}", flush=True)
        return "failed"


def parse_arguments():
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, help="the executable to check")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--case", nargs="+", default=[], help="names or shell patterns; all by default")
    parser.add_argument("--timeout", type=int, default=120, help="seconds for one run of the program")
    parser.add_argument("--keep", type=Path, help="a new folder for inputs, outputs and logs; else a temporary one")
    parser.add_argument("--list", action="store_true", help="print the names of the cases")
    arguments = parser.parse_args(sys.argv[1:split])
    arguments.extra = sys.argv[split + 1:]
    if not arguments.list and (arguments.program is None or not arguments.program.is_file()):
        parser.error(f"no program at {arguments.program}")
    return arguments


def main():
    arguments = parse_arguments()
    selected = cases.select(arguments.case)
    if arguments.list:
        print("\n".join(case.name for case in selected))
        return 0
    arguments.program = arguments.program.resolve()
    print(f"{'case':26} {'result':8} {'loss':8} {'gradient':9}(relative errors)")
    with tempfile.TemporaryDirectory() as temporary:
        root = (arguments.keep or Path(temporary)).resolve()
        results = [run_case(arguments, case, root) for case in selected]
    print(", ".join(f"{results.count(result)} {result}" for result in ("passed", "failed", "skipped")))
    if "failed" in results:
        return 1
    return 0 if "passed" in results else 77


if __name__ == "__main__":
    sys.exit(main())
