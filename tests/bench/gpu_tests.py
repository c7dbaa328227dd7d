"""Parts of gpu_check.py: the tests of the device, alone and under compute-sanitizer."""

import re
import shutil
from pathlib import Path

from gpu import SKIPPED

# Kernels that move bytes asynchronously are left out of racecheck: it does not follow them.
SANITIZED = {"memcheck": ("adamw", "elementwise", "embedding", "fixed_point", "rms_norm", "rope", "swiglu", "cross_entropy",
                          "attention", "matmul"),
             "initcheck": ("adamw", "elementwise", "embedding", "fixed_point", "rms_norm", "rope", "swiglu",
                           "cross_entropy", "attention"),
             "racecheck": ("adamw", "elementwise", "embedding", "fixed_point", "rms_norm", "rope", "swiglu", "cross_entropy")}
TOOL_FAILED = (r"Internal Sanitizer Error|is not supported|Failed to initialize|Unable to find injection|"
               r"terminated before first instrumented|No attachable process")
FOUND = 86  # exit code for what the sanitizer finds
RANKS = ("cuda_halo_test", "cuda_collectives_test")  # on two: they share a GPU; apart: of two, where there are two


def tests(check):
    programs = check.bundle.all("cuda_*_test")
    if not programs:
        check.fail("all", "no cuda_*_test in the bundle: bundle.sh --with-tests")
    calls = calls_of(check, programs)
    passed = skipped = 0
    for name, words in calls:
        if not check.budget.allows(1):
            check.cut_off()
            break
        result = check.runner.run(words, min(120, check.budget.left()))
        cases = re.search(r"Running (\d+) test case", result.out)
        if result.code == 0 and not result.is_late:
            passed += 1
            check.add(name, "passed", remark=f"{cases[1] if cases else '?'} cases, {result.seconds:.1f} s")
        elif result.code == SKIPPED and check.expects_gpu and "apart" not in name:
            check.fail(name, f"skipped, but a GPU was expected: {result.reason()}")
        elif result.code == SKIPPED:
            skipped += 1
            why = re.search(r"skipped: (.*)", result.out)
            check.add(name, "skipped", remark=why[1] if why else result.reason())
        else:
            check.fail(name, error_of(result))
    text = f"{passed} of {len(calls)} passed" + (f", {skipped} skipped" if skipped else "")
    check.add("all", text, passed=passed, count=len(calls))


def calls_of(check, programs):
    """Each program; those of ranks on two of them, once more where each must have a GPU of its own."""
    launcher = check.bundle.find("mpirun") or shutil.which("mpirun")
    calls = []
    for program in programs:
        name = program.name.removesuffix("_test")
        if program.name in RANKS and launcher:
            calls += [(f"{name}, 2 ranks", [launcher, "-np", 2, program]),
                      (f"{name}, 2 ranks apart", [launcher, "-np", 2, program, "--apart"])]
        else:
            calls.append((name, [program]))
    return calls


def error_of(result):
    """The first complaint of Boost.Test rather than its last line."""
    match = re.search(r"error: (.*)", result.out)
    return f"exit {result.code}: {match[1]}"[:200] if match and not result.is_late else result.reason()


def sanitizer(check):
    tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not Path(tool).exists():
        check.add("all", "not run", remark="there is no compute-sanitizer")
        return
    verdicts = []
    for kind, stems in SANITIZED.items():
        for stem in stems:
            program = check.bundle.find(f"cuda_{stem}_test")
            if program and not check.budget.allows(5):
                check.cut_off()
                return
            if program:
                verdicts.append(sanitize(check, tool, kind, stem, program))
            if len(verdicts) == 3 and not any(verdicts):
                check.add("all", "not run", remark="the sanitizer does not work here: three runs without a verdict")
                return


def sanitize(check, tool, kind, stem, program):
    """False when the tool itself failed: that says nothing of the test."""
    words = [tool, "--tool", kind, "--error-exitcode", FOUND, "--print-limit", 3, program]
    result = check.runner.run(words, min(90, check.budget.left()))
    summary = re.search(r"(?:ERROR SUMMARY: |RACECHECK SUMMARY: )(\d+)", result.out)
    broken = result.code == SKIPPED or re.search(TOOL_FAILED, result.out)
    name = f"{kind} cuda_{stem}"
    if result.is_late:
        check.add(name, "cut off", remark=f"after {result.seconds:.0f} s: no verdict")
    elif broken or not summary:
        said = re.search(r"========= (?!COMPUTE-SANITIZER)(.*)", result.out)
        check.add(name, "no verdict", remark=f"the tool failed: {(said[1] if said else result.reason())[:120]}")
        return False
    elif int(summary[1]) == 0 and result.code == 0:
        check.add(name, "clean", remark=f"{result.seconds:.1f} s")
    else:
        said = re.search(r"========= (?!COMPUTE-SANITIZER)(.*)", result.out)
        check.fail(name, f"{summary[1]} found, exit {result.code}: {said[1] if said else ''}"[:200])
    return True
