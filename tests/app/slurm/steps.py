#!/usr/bin/env python3
"""Reads /steps/step of a run's log.h5, while it is written or after.

steps.py wait LOG COUNT SECONDS     until COUNT steps stand there; exit 1 when the time is over
steps.py check LOG STEPS            each of the steps 1 ... STEPS stands there once
"""
import sys
import time

import h5py


def steps(path):
    with h5py.File(path, "r", libver="latest", swmr=True) as log:
        return log["steps/step"][:].tolist()


def wait(path, count, seconds):
    end = time.monotonic() + float(seconds)
    found = []
    while time.monotonic() < end:
        try:
            found = steps(path)
        except (OSError, KeyError):  # not there yet
            pass
        if len(found) >= int(count):
            return
        time.sleep(0.05)
    sys.exit(f"steps.py: {len(found)} of {count} steps in {path} after {seconds} s")


def check(path, count):
    found, wanted = steps(path), list(range(1, int(count) + 1))
    if found != wanted:
        missing, twice = set(wanted) - set(found), len(found) - len(set(found))
        sys.exit(f"steps.py: {len(found)} rows in {path}, {twice} of them repeated, missing {sorted(missing)[:9]}")


{"wait": wait, "check": check}[sys.argv[1]](*sys.argv[2:])
