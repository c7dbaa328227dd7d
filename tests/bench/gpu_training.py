"""Parts of gpu_check.py that train: a whole step beside transformers + PEFT, rows streamed in chunks, ranks on one GPU."""

import math
import re
import shutil
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import gpu_kernels
import gpu_profile
import work
from gpu import BENCH, MIB, MemoryInUse, gib, share, tera

try:
    import h5py
    import numpy as np
except ImportError as missing:
    h5py, MISSING = None, str(missing)

ELEMENT, FLOAT = 2, 4  # bytes of K/V and of their gradients
SECONDS_TO_START = 30  # at most, with the weights of 7B


# ---- running the program


class Training:
    """A run of the program: /steps and attributes of its log, what it said, bytes on the GPU and of the host."""

    def __init__(self):
        self.result, self.steps, self.attributes, self.gradients = None, {}, {}, {}
        self.device_bytes = self.host_bytes = math.nan

    def failure(self, steps):
        if len(self.steps.get("step", ())) >= steps:
            return ""
        complaint = re.search(r"longlora_hpc: (?!warning).*", self.result.out)
        return complaint[0][:200] if complaint and not self.result.is_late else self.result.reason()

    def seconds(self):
        """Of a step; the first, which also makes ready what later ones find, counts where it is alone."""
        column = self.steps["seconds"]
        return float(statistics.median(column[1:] if len(column) > 1 else column))

    def most(self, name):
        return float(max(self.steps[name])) if name in self.steps else math.nan

    def phases(self):
        last = {match[1]: float(self.steps[name][-1]) for name in self.steps
                if (match := re.fullmatch(r"seconds_(\w+)_mean", name))}
        return {name: seconds for name, seconds in last.items() if seconds > 0.0005}

    def chunks(self):
        return int(self.attributes.get("planned_chunks", 0))

    def policy(self):
        """As the program announces it: recompute_mlp for 21.1 % of tokens, 63.3 % offloaded."""
        match = re.search(r"activations (.*), [\d.]+ \S+ a rank", self.result.out)
        return match[1] if match else ""

    def executed_flop(self, model, schedule):
        """With what the policy computes again, for as many tokens as it does."""
        kept, again = (work.executed_flop(model, replace(schedule, policy=policy))
                       for policy in ("keep", (self.policy() or "keep").split()[0]))
        match = re.search(r"for ([\d.e-]+) % of tokens", self.policy())
        return kept + (again - kept) * float(match[1]) / 100 if match else again


def read_log(path):
    """/steps and attributes of a log.h5 that may be growing, or that a killed writer has left."""
    try:
        with h5py.File(path, "r", libver="latest", swmr=True) as file:
            return {name: data[:] for name, data in file["steps"].items()}, dict(file.attrs)
    except (OSError, KeyError):
        return {}, {}


def read_gradients(path):
    found = {}
    if path.exists():
        with h5py.File(path, "r") as file:
            file["gradients"].visititems(
                lambda name, item: found.update({name: item[:]}) if isinstance(item, h5py.Dataset) else None)
            found["loss"] = file["loss"][()]
    return found


def model_options(model, length, scale):
    """With the program's options that --set PART.options={...} gives."""
    return {**model.options(), "sequence.length": length, "attention.group": scale["group"], "train.batch": 1,
            **scale["options"]}


def write_tokens(folder, length, vocabulary, rows=2):
    path = Path(folder) / "tokens.npy"
    np.save(path, np.random.default_rng(1).integers(0, vocabulary, rows * (length + 1), dtype=np.int32))
    return path


def train(check, model, options, steps, limit, ranks=0, wants_gradients=False):
    """Ends the program as soon as the log has the steps: the checkpoint of 7B's trainables takes seconds. With ranks it
    ends by itself."""
    found = Training()
    with tempfile.TemporaryDirectory(prefix="gpu-check-", dir=check.scratch) as folder, MemoryInUse() as memory:
        run, gradients = Path(folder) / "run", Path(folder) / "gradients.h5"
        settings = {"parallel.device": check.device, **options, "train.steps": steps, "train.warmup_steps": 0,
                    "train.checkpoint_every": 0, "run.directory": run,
                    "data.train": write_tokens(folder, options["sequence.length"], model.vocabulary)}
        if wants_gradients:
            settings["train.dump_gradients"] = gradients
        words = [check.bundle.find("longlora_hpc"), "train"]
        words += [word for name, value in settings.items() for word in (f"--{name}", value)]
        has_all = lambda: len(read_log(run / "log.h5")[0].get("step", ())) >= steps  # noqa: E731
        if ranks:
            launcher = check.bundle.find("mpirun") or shutil.which("mpirun")
            found.result = check.runner.run([launcher, "-np", ranks, *words], min(limit, check.budget.left()))
        else:
            found.result = check.runner.run(words, min(limit, check.budget.left()), has_all)
        found.steps, found.attributes = read_log(run / "log.h5")
        found.gradients = read_gradients(gradients)
    found.device_bytes, found.host_bytes = memory.device, memory.host
    return found


def can_train(check):
    if h5py is None:
        check.add("all", "not run", remark=f"{MISSING}: log.h5 cannot be read")
    elif check.bundle.find("longlora_hpc") is None:
        check.fail("all", "there is no longlora_hpc in the bundle")
    else:
        return True
    return False


def sizes(model, length, group):
    return f"{model.layers} layers, {model.width} wide, {length} tokens, G {group}"


# ---- a whole step


def step(check):
    if not can_train(check):
        return
    scale = check.scale["step"]
    model, length = scale["model"], scale["length"]
    square = check.table.value("rates", "matmul square", "rate")
    if math.isnan(square):
        square = gpu_kernels.square_rate(check)
    own = train(check, model, model_options(model, length, scale), scale["steps"], SECONDS_TO_START + 20 * scale["steps"])
    torch = torch_step(check, scale)
    if failure := own.failure(scale["steps"]):
        check.fail(f"longlora_hpc {length} tokens", failure)
    else:
        report_step(check, own, torch, square)
        report_memory(check, own, torch)
        for offloaded in scale["offload"]:
            step_with_offload(check, own, torch, offloaded)
        gpu_profile.report(check, own.seconds())
        check.add("seconds by phase", in_words(own.phases()), remark=f"of a step of {own.steps['seconds'][-1]:.3f}",
                  **own.phases())
    if torch:
        check.add("transformers + PEFT", f"{length / torch['seconds']:.0f} tokens/s ({torch['seconds']:.3f} s)",
                  remark="forward {forward:.3f}, backward {backward:.3f}, update {update:.3f}".format(**torch),
                  seconds=torch["seconds"])


def step_with_offload(check, own, torch, offloaded):
    """The same with so many GiB of what the GPU has no room for on the host."""
    scale = check.scale["step"]
    model, length = scale["model"], scale["length"]
    what = f"longlora_hpc {length} tokens, offload {offloaded} GiB"
    if not check.budget.allows(SECONDS_TO_START + 20 * scale["steps"]):
        check.add(what, "not run", remark=f"{check.budget.left():.0f} s are left")
        return
    other = train(check, model, {**model_options(model, length, scale), **scale["offload_options"],
                                 "train.offload": offloaded}, scale["steps"],
                  SECONDS_TO_START + 20 * scale["steps"])
    if failure := other.failure(scale["steps"]):
        check.fail(what, failure)
        return
    seconds = other.seconds()
    check.add(what, f"{length / seconds:.0f} tokens/s ({seconds:.3f} s)", f"{own.seconds():.3f} s without",
              f"{torch['seconds'] / seconds:.2f} x transformers + PEFT" if torch else "", "2 x",
              f"activations {other.policy()}, device {gib(other.device_bytes)}, host {gib(other.host_bytes)}; "
              f"{in_words(other.phases())}", seconds=seconds)


def in_words(phases):
    return ", ".join(f"{name} {seconds:.3f}" for name, seconds in phases.items())


def report_step(check, own, torch, square):
    scale = check.scale["step"]
    model, length, group = scale["model"], scale["length"], scale["group"]
    seconds = own.seconds()
    useful = work.useful_flop(model, work.Schedule(length, group))
    is_aim = (model.layers, length) == (32, 32768)
    check.add(f"longlora_hpc {length} tokens", f"{length / seconds:.0f} tokens/s ({seconds:.3f} s)",
              f"{length / torch['seconds']:.0f} tokens/s" if torch else "",
              f"{torch['seconds'] / seconds:.2f} x transformers + PEFT" if torch else "",
              "2 x, 11,000 tokens/s" if is_aim else "",
              f"{sizes(model, length, group)}, chunks {own.chunks()}, activations {own.policy()}", seconds=seconds)
    check.add("useful FLOP", tera(useful / seconds), f"matmul {tera(square)}", share(useful / seconds, square),
              remark="linear layers and head forward and input gradient, visible pairs; LoRA and what is computed again "
                     "are left out", rate=useful / seconds)


def report_memory(check, own, torch):
    logged = own.most("peak_bytes_device")
    planned = re.search(r", ([\d.]+ \w+) a rank", own.result.out)
    check.add("peak device memory", gib(own.device_bytes), gib(torch["reserved_bytes"]) if torch else "", "",
              remark=f"log.h5 {gib(logged)}, planned {planned[1] if planned else '?'}; host "
                     f"{gib(own.host_bytes)}, resident {gib(own.most('peak_bytes_host'))}", bytes=own.device_bytes)


def torch_step(check, scale):
    """The fastest step after the first, or none."""
    model = scale["model"]
    lines = check.beside("transformers + PEFT", [
        BENCH / "torch_s2_step.py", "--device", check.torch_device, "--layers", model.layers, "--width", model.width,
        "--heads", model.heads, "--kv-heads", model.kv_heads, "--mlp-width", model.mlp_width,
        "--vocabulary", model.vocabulary, "--length", scale["length"], "--group", scale["group"],
        "--steps", scale["torch_steps"]])
    steps = [line for line in lines if line.get("name") == "step"]
    return min(steps[1:] or steps, key=lambda line: line["seconds"], default=None)


# ---- streaming


def streaming(check):
    if not can_train(check):
        return
    scale = check.scale["streaming"]
    if scale["compared"]:
        compare_streamed(check)
    for name, model in scale["models"].items():
        if scale["only"] in ("", name):
            stream_lengths(check, name, model)


def stream_lengths(check, name, model):
    """The shard stays, so longer rows have more chunks; the shortest says what the others should take."""
    scale = check.scale["streaming"]
    first = None
    for length in scale["lengths"]:
        chunks = length // scale["shard"]
        expected = SECONDS_TO_START + length / scale["slowest"]
        what = f"{name} {length} tokens, {chunks} chunks"
        if not check.budget.allows(expected):
            check.add(what, "not run", remark=f"may take {expected:.0f} s, {check.budget.left():.0f} s are left")
            continue
        steps = 2 if first is None else 1
        own = train(check, model, {**model_options(model, length, scale), "sequence.chunks": chunks}, steps,
                    2 * expected)
        if failure := own.failure(steps):
            check.fail(what, failure)
            continue
        first = first or (length, own)
        report_length(check, what, model, (length, own), first)


def report_length(check, what, model, this, first):
    scale = check.scale["streaming"]
    (length, own), (first_length, first_own) = this, first
    flop = lambda run, tokens: run.executed_flop(model, work.Schedule(  # noqa: E731
        tokens, scale["group"], chunks=tokens // scale["shard"]))
    predicted = first_own.seconds() * flop(own, length) / flop(first_own, first_length)
    seconds = own.seconds()
    kept = (length // scale["shard"] - 1) * border_bytes(model, scale["group"])
    check.add(what, f"{length / seconds:.0f} tokens/s ({seconds:.2f} s)", f"{length / predicted:.0f} tokens/s predicted",
              f"{100 * predicted / seconds:.1f} %", "95 %", f"activations {own.policy()}", seconds=seconds)
    grown = own.device_bytes / first_own.device_bytes
    flat = "" if math.isnan(grown) else f"{100 * (grown - 1):+.1f} % of {first_length}"
    check.add(f"{what}: memory", f"device {gib(own.device_bytes)}", f"host {gib(own.host_bytes)}", flat, "flat",
              f"kept K/V by the formula {gib(kept)}; log.h5: device {gib(own.most('peak_bytes_device'))}, host "
              f"{gib(own.most('peak_bytes_host'))}", device=own.device_bytes, host=own.host_bytes, kept=kept)


def border_bytes(model, group):
    """K and V that a chunk leaves for the next one, all layers."""
    return 2 * (group // 2) * work.travelling_heads(model) * model.head_dim * ELEMENT * model.layers


def compare_streamed(check):
    """The gradients of a row in one piece and in chunks."""
    scale = check.scale["streaming"]
    model, length = next(iter(scale["models"].values())), scale["compared"]
    runs = []
    for chunks in (1, scale["compared_chunks"]):
        if not check.budget.allows(SECONDS_TO_START):
            return check.cut_off()
        options = {**model_options(model, length, scale), "sequence.chunks": chunks}
        runs.append(train(check, model, options, 1, SECONDS_TO_START + 60, wants_gradients=True))
        if failure := runs[-1].failure(1):
            return check.fail(f"gradients in {chunks} chunks", failure)
    report_difference(check, f"gradients {length} tokens, {scale['compared_chunks']} chunks to 1", runs[0], runs[1], "2e-3")
    return None


def report_difference(check, what, reference, other, aim):
    """|a - b| / |a| over all tensors, and of the worst tensor."""
    a, b = reference.gradients, other.gradients
    if not a or a.keys() != b.keys():
        check.fail(what, f"{len(a)} and {len(b)} tensors were written")
        return
    equal = sum(np.array_equal(a[name], b[name]) for name in a)
    square = lambda x: float(np.sum(np.square(x, dtype=np.float64)))  # noqa: E731
    wrong = {name: square(a[name] - b[name]) for name in a if name != "loss"}
    whole = {name: square(a[name]) for name in wrong}
    total = math.sqrt(sum(wrong.values()) / max(sum(whole.values()), 1e-300))
    worst = max(wrong, key=lambda name: wrong[name] / max(whole[name], 1e-300))
    of_worst = math.sqrt(wrong[worst] / max(whole[worst], 1e-300))
    check.add(what, f"{total:.2e} of the norm", f"{equal} of {len(a)} arrays bit-equal", "", aim,
              f"worst {of_worst:.2e}, {worst}; loss {float(a['loss']):.9g} and {float(b['loss']):.9g}", difference=total,
              worst=of_worst, equal=equal, count=len(a))


# ---- ranks


def ranks(check):
    if not can_train(check):
        return
    if not (check.bundle.find("mpirun") or shutil.which("mpirun")):
        check.fail("all", "there is no mpirun")
        return
    scale = check.scale["ranks"]
    model, length = scale["model"], scale["length"]
    first = None
    for count in scale["ranks"]:
        if not check.budget.allows(15):
            return check.cut_off()
        options = {**model_options(model, length, scale), "parallel.sequence": count, "sequence.chunks": 1}
        own = train(check, model, options, scale["steps"], 120, ranks=count, wants_gradients=True)
        if failure := own.failure(scale["steps"]) or (own.result.code and own.result.reason()):
            check.fail(f"{count} ranks", failure)
            continue
        report_ranks(check, count, own)
        if first is None:
            first = own
        else:
            report_difference(check, f"gradients {count} ranks to 1", first, own, "same")
    return None


def report_ranks(check, count, own):
    scale = check.scale["ranks"]
    model, length, group = scale["model"], scale["length"], scale["group"]
    # K and V forward in the storage type, their gradients back as floats; work.py counts floats both ways.
    elements = work.halo_bytes(model, work.Schedule(length, group, ranks=count)) / work.FLOAT / 2
    formula = elements * (ELEMENT + FLOAT)
    sent = float(own.steps["halo_bytes"][-1])
    waited = own.phases().get("halo_wait", 0.0)
    check.add(f"{count} ranks", f"{length / own.seconds():.0f} tokens/s ({own.seconds():.3f} s)",
              f"halo {sent / MIB:.2f} MiB, formula {formula / MIB:.2f}", remark=f"halo wait {1e3 * waited:.1f} ms, gradient "
              f"sync {1e3 * own.phases().get('gradient_sync', 0.0):.1f} ms; {sizes(model, length, group)}",
              seconds=own.seconds(), halo_bytes=sent, halo_seconds=waited)
