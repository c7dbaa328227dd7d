"""Strong and weak scaling over sequence-parallel ranks, one thread each.

    scaling.py                                  1, 2, 4, 8 ranks, 3 turns
    scaling.py --ranks 1,2 --turns 1 --steps 2  does it work

Strong: one row of 8,192 tokens over all ranks. Weak: 2,048 tokens a rank. Ranks beyond the cores share them: they
cannot be quicker. The figure to read is GFLOP/s of a core, and their waiting has the neighbour's turn on the core in it.
"""

import statistics
import tempfile

import measuring
import work
from measuring import GIGA, MIB

MODEL = work.Model(layers=4, width=512, heads=8, kv_heads=8, mlp_width=1376, vocabulary=8192)


class Point:
    """A number of ranks on a length."""

    def __init__(self, ranks, length, options):
        self.plan, self.options = work.Schedule(length, options.group, ranks), options
        self.runs = []

    def turn(self):
        plan, options = self.plan, self.options
        settings = {**MODEL.options(), "sequence.length": plan.length, "sequence.chunks": 1,
                    "attention.group": plan.group, "parallel.sequence": plan.ranks, "train.batch": 1,
                    "train.steps": options.steps, "train.activations": "keep"}
        with tempfile.TemporaryDirectory(prefix="longlora-bench-") as folder:
            settings["data.train"] = measuring.tokens(folder, 2, plan.length, MODEL.vocabulary)
            self.runs.append(measuring.train(options.program[0], settings, plan.ranks, 1, options.launcher))

    def best(self):
        return min(run.steps["seconds"][1:].min() for run in self.runs)

    def a_core(self):
        """FLOP/s of a core in use."""
        cores = min(self.plan.ranks, measuring.cores())
        return work.useful_flop(MODEL, self.plan) / self.best() / cores

    def mean_share(self, of):
        return measuring.percent(statistics.mean(of(run) for run in self.runs))

    def cells(self, first, peak):
        phases = [self.mean_share(lambda run, name=name: run.phases(1)[name]) for name in ("halo_wait", "gradient_sync")]
        memory = max(run.steps["peak_bytes_host"].max() for run in self.runs)
        return [self.plan.ranks, self.plan.length, f"{self.best():.2f}", f"{self.plan.length / self.best():.0f}",
                f"{self.a_core() / GIGA:.1f}", measuring.percent(self.a_core() / first.a_core()),
                measuring.percent(self.a_core() * peak.threads / peak.best), *phases, f"{memory / MIB:.0f}"]


HEADER = ["ranks", "tokens", "seconds", "tokens/s", "GFLOP/s a core", "of 1 rank", "of best peak", "halo wait",
          "gradient sync", "MiB a rank"]


def report(title, points, peak):
    print(title)
    measuring.table(HEADER, [point.cells(points[0], peak) for point in points])


def parse():
    options = measuring.parser(__doc__)
    options.add_argument("--ranks", type=measuring.numbers, default=[1, 2, 4, 8])
    options.add_argument("--length", type=int, default=8192, help="of the row for strong scaling")
    options.add_argument("--shard", type=int, default=2048, help="tokens a rank for weak scaling")
    options.add_argument("--group", type=int, default=2048)
    options.add_argument("--turns", type=int, default=3)
    options.add_argument("--steps", type=int, default=3, help="in a turn; the first is not counted")
    found = measuring.parse(options)
    if found.steps < 2:
        raise SystemExit("--steps must be at least 2: the first is not counted")
    return found


def main():
    options = parse()
    measuring.announce()
    peak = measuring.Peak(options.program[0], measuring.cores())
    strong = [Point(ranks, options.length, options) for ranks in options.ranks]
    weak = [Point(ranks, options.shard * ranks, options) for ranks in options.ranks]
    for turn in range(options.turns):
        for point in strong + weak:
            peak.measure()
            point.turn()
            print(f"turn {turn + 1} of {options.turns}: {point.plan.ranks} ranks, {point.plan.length} tokens: "
                  f"{point.best():.2f} s", flush=True)
    print(f"\n{peak}\n{measuring.cores()} cores; more ranks than that share them\n")
    report("strong scaling: one row", strong, peak)
    report(f"weak scaling: {options.shard} tokens a rank", weak, peak)


if __name__ == "__main__":
    main()
