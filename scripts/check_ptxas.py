#!/usr/bin/env python3
"""Runs a compiler whose ptxas reports (-Xptxas -v), and fails where a kernel's report is bad news.

check_ptxas.py COMMAND...     exit status of the command, or 1: registers spilled beyond what ALLOWED has,
                              or a message C75xx (products serialised, setmaxnreg ignored)
"""
import re
import subprocess
import sys

# part of a kernel's mangled name -> bytes that it may spill
ALLOWED = {}

SERIALISED = re.compile(r"\(C75\d\d\)")
KERNEL = re.compile(r"Function properties for (\S+)")
SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")


def allowance(kernel):
    return max((bytes_ for part, bytes_ in ALLOWED.items() if part in kernel), default=0)


def faults_of(lines):
    """Lines that tell of a fault, as they are to be shown."""
    kernel = ""
    for line in lines:
        if SERIALISED.search(line):
            yield line
        if match := KERNEL.search(line):
            kernel = match[1]
        if match := SPILLS.search(line):
            if max(int(match[1]), int(match[2])) > allowance(kernel):
                yield f"{kernel}: {line.strip()}"


def main():
    result = subprocess.run(sys.argv[1:], stderr=subprocess.PIPE, text=True, check=False)
    lines = result.stderr.splitlines()
    faults = list(faults_of(lines))
    is_report = re.compile(r"ptxas info\s+:|\s+\d+ bytes stack frame")
    for line in lines:
        if not is_report.match(line) and line not in faults:
            print(line, file=sys.stderr)
    for fault in faults:
        print("ptxas:", fault, file=sys.stderr)
    return result.returncode or (1 if faults else 0)


if __name__ == "__main__":
    sys.exit(main())
