"""Tokens/s of a whole step of the benchmark model: 1 rank x all threads and as many ranks x 1 thread, in turns.

    step.py                                        12 layers, 768 wide, N 8,192, G 2,048, 2 cores: 3 turns
    step.py --torch venv/bin/python                beside the same step in PyTorch (torch_step.py)
    step.py --program build/longlora_hpc --program ../old/build/longlora_hpc       two builds
    step.py --lengths 8192,65536 --layouts 1x2     against what the work at the first length predicts; 65536:8 in 8 chunks
    step.py --layers 2 --lengths 2048 --group 512 --turns 1 --steps 2              does it work

Each turn starts the program anew, its first step is not counted (a turn of one step counts it), and before each the
machine's FMA peak is measured. Page faults are those of all ranks. Useful GFLOP/s leave out LoRA's thin products and
whatever is computed again.
"""

import statistics
import subprocess
import tempfile
from pathlib import Path

import measuring
import work
from measuring import GIGA, MIB


class Program:
    """An executable on one layout at one length; 0 chunks: as planned."""

    def __init__(self, executable, label, layout, length, options):
        self.executable, self.options = executable, options
        self.ranks, self.threads = map(int, layout.split("x"))
        self.length, self.chunks = length
        self.layout = f"{label}{self.ranks} x {self.threads}"
        self.name = f"{self.layout}, N {self.length}" + (f" in {self.chunks}" if self.chunks else "")
        self.seconds, self.runs = [], []

    def settings(self, folder):
        model, options = model_of(self.options), self.options
        return {**model.options(), "sequence.length": self.length, "attention.group": options.group, "train.batch": 1,
                "sequence.chunks": self.chunks, "train.activations": options.activations,
                "train.steps": options.steps, "parallel.sequence": self.ranks,
                "data.train": measuring.tokens(folder, 2, self.length, model.vocabulary)}

    def turn(self):
        with tempfile.TemporaryDirectory(prefix="longlora-bench-") as folder:
            run = measuring.train(self.executable, self.settings(folder), self.ranks, self.threads, self.options.launcher)
        self.runs.append(run)
        self.seconds += run.steps["seconds"][self.first_counted:].tolist()

    @property
    def first_counted(self):
        return 1 if self.options.steps > 1 else 0

    def schedule(self):
        """What the planner picked."""
        attributes = self.runs[-1].attributes
        return work.Schedule(self.length, self.options.group, self.ranks, int(attributes["planned_chunks"]),
                             work.POLICIES[int(attributes["planned_activations"])])

    def peak_bytes(self):
        return max(run.steps["peak_bytes_host"].max() for run in self.runs)

    def faults(self):
        found = [run.later_faults() for run in self.runs]
        return "-" if None in found else " / ".join(str(max(column)) for column in zip(*found))

    def communication(self):
        return measuring.percent(statistics.mean(run.communication(self.first_counted) for run in self.runs))


class Torch:
    """A variant of torch_step.py, started anew each turn, too: the variants do not fit into memory beside each other."""

    def __init__(self, variant, options):
        self.variant, self.options, self.length = variant, options, options.lengths[0][0]
        self.name = f"torch {variant}, N {self.length}"
        self.seconds, self.bytes = [], 0.0

    def turn(self):
        options, script = self.options, Path(__file__).with_name("torch_step.py")
        line = [*options.launcher, options.torch, "-W", "ignore", script, self.variant, "--steps", options.torch_steps,
                "--length", self.length, "--group", options.group, "--layers", options.layers,
                "--threads", options.threads]
        out = subprocess.run(list(map(str, line)), stdout=subprocess.PIPE, text=True, check=True).stdout
        steps = [dict(word.split("=") for word in text.split()) for text in out.splitlines()]
        self.seconds += [float(step["seconds"]) for step in steps[1:] or steps]
        self.bytes = max(float(step["peak_bytes"]) for step in steps)

    def peak_bytes(self):
        return self.bytes

    def faults(self):
        return "-"

    def communication(self):
        return "-"


def model_of(options):
    return work.Model(**{**vars(work.BENCHMARK), "layers": options.layers})


def contestants(options):
    several = len(options.program) > 1
    for executable in options.program:
        label = f"{executable.parent.parent.name} " if several else ""
        for length in options.lengths:
            for layout in options.layouts:
                yield Program(executable, label, layout, length, options)
    if options.torch:
        for variant in options.variants:
            yield Torch(variant, options)


def rate(contestant, of=min):
    return contestant.length / of(contestant.seconds)


def flop_rate(contestant, options, of=min):
    schedule = work.Schedule(contestant.length, options.group)
    return work.useful_flop(model_of(options), schedule) / of(contestant.seconds)


def report(found, peak, options):
    rows = []
    for one in found:
        best, middle = flop_rate(one, options), flop_rate(one, options, statistics.median)
        rows.append([one.name, len(one.seconds), f"{rate(one):.1f}", f"{rate(one, statistics.median):.1f}",
                     f"{best / GIGA:.1f}", f"{middle / GIGA:.1f}", measuring.percent(best / peak.best),
                     measuring.percent(middle / statistics.mean(peak.means)), one.faults(), one.communication(),
                     f"{one.peak_bytes() / MIB:.0f}"])
    print(peak)
    measuring.table(["ranks x threads", "steps", "tokens/s best", "median", "GFLOP/s best", "median", "best of best peak",
                     "median of mean peak", "page faults in step 2 / later", "communication", "MiB a rank"], rows)


def report_phases(found):
    names = list(found[0].runs[0].phases(0))
    rows = [[one.name, *(measuring.percent(statistics.mean(run.phases(one.first_counted)[name] for run in one.runs))
                         for name in names)] for one in found]
    measuring.table(["share of a step", *(name.replace("_", " ") for name in names)], rows)


def report_prediction(found, options):
    """The same FLOP/s, recomputation counted, as at the first length on the same layout."""
    rows = []
    for one in found:
        reference = next(other for other in found if other.layout == one.layout)
        schedule, model = one.schedule(), model_of(options)
        speed = work.executed_flop(model, reference.schedule()) / min(reference.seconds)
        predicted = one.length * speed / work.executed_flop(model, schedule)
        rows.append([one.name, schedule.chunks, schedule.policy, f"{rate(one):.1f}", f"{predicted:.1f}",
                     measuring.percent(rate(one) / predicted)])
    measuring.table(["ranks x threads", "chunks", "activations", "tokens/s best", "predicted", "of it"], rows)


def report_ratios(programs, torches):
    first = programs[0]
    middle = rate(first, statistics.median)
    rows = [[one.name, f"{rate(one) / rate(first):.3f}", f"{rate(one, statistics.median) / middle:.3f}"]
            for one in programs[1:] if one.length == first.length]
    if torches:
        best, middle = max(map(rate, torches)), max(rate(one, statistics.median) for one in torches)
        rows += [[f"{one.name}, to the best torch", f"{rate(one) / best:.2f}",
                  f"{rate(one, statistics.median) / middle:.2f}"] for one in programs if one.length == first.length]
    if rows:
        measuring.table([f"to {first.name}", "best", "median"], rows)


def take_turns(found, peak, turns):
    for turn in range(turns):
        for one in found:
            peak.measure()
            one.turn()
            print(f"turn {turn + 1} of {turns}: {one.name}: {one.length / one.seconds[-1]:.1f} tokens/s", flush=True)
    peak.measure()
    print(flush=True)


def lengths(text):
    """8192,65536:8 as (length, chunks)."""
    return [(int(length), int(chunks or 0)) for length, _, chunks in (word.partition(":") for word in text.split(","))]


def parse():
    options = measuring.parser(__doc__)
    options.add_argument("--lengths", type=lengths, default=[(8192, 0)], help="N or N:chunks, comma separated")
    options.add_argument("--group", type=int, default=2048)
    options.add_argument("--layers", type=int, default=work.BENCHMARK.layers)
    options.add_argument("--activations", default="auto", help="auto, keep, recompute_mlp, recompute_layer")
    options.add_argument("--layouts", type=lambda text: text.split(","), help="1x2,2x1: ranks x threads")
    options.add_argument("--turns", type=int, default=3)
    options.add_argument("--steps", type=int, default=4, help="of the program in a turn")
    options.add_argument("--torch-steps", type=int, default=2, help="of each variant in a turn")
    options.add_argument("--torch", help="a Python with torch, transformers and peft")
    options.add_argument("--variants", type=lambda text: text.split(","),
                         default=["plain", "plain-tiled", "plain-checkpointing", "peft", "peft-checkpointing"])
    found = measuring.parse(options)
    found.threads = measuring.cores()
    found.layouts = found.layouts or [f"1x{found.threads}", f"{found.threads}x1"]
    return found


def main():
    options = parse()
    measuring.announce()
    peak = measuring.Peak(options.program[0], options.threads)
    found = list(contestants(options))
    take_turns(found, peak, options.turns)
    programs = [one for one in found if isinstance(one, Program)]
    torches = [one for one in found if isinstance(one, Torch)]
    report(found, peak, options)
    report_phases(programs)
    report_prediction(programs, options)
    report_ratios(programs, torches)


if __name__ == "__main__":
    main()
