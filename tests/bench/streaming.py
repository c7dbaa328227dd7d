"""A row of any length in the same memory: seconds a token, peak resident bytes and bytes sent, by length.

    streaming.py                                      S2-Attn 65,536 to 1,048,576, full attention to 32,768; 2 ranks
    streaming.py --lengths 65536,262144 --full-lengths 16384

The model is a random one of stories260k's sizes: 5 layers, 64 wide, 8/4 heads, vocabulary 512. The shard stays, so a
longer row has more chunks, 2 - 1/C forwards of them: `of the first` compares seconds a token with the shortest row,
`by work` says what the count of forwards expects there. Beside the bytes that were sent, all ranks together: what the
formula says, and what Ulysses and ring attention would move for the same row, nothing streamed, nothing computed again.
Full attention beyond what is measured: as many seconds as its FLOP take at the rate of the longest row measured.
"""

import tempfile

import measuring
import work
from measuring import GIGA, MIB

MODEL = work.STORIES260K


def schedule(length, group, options):
    return work.Schedule(length, group, options.ranks, length // (options.ranks * options.shard))


def measure(plan, options):
    settings = {**MODEL.options(), "sequence.length": plan.length, "sequence.chunks": plan.chunks,
                "parallel.sequence": plan.ranks, "train.batch": 1, "train.steps": options.steps,
                "train.activations": "keep", "comm.timeout": 3600}
    settings.update({"attention.pattern": "full"} if plan.group is None else {"attention.group": plan.group})
    with tempfile.TemporaryDirectory(prefix="longlora-bench-") as folder:
        settings["data.train"] = measuring.tokens(folder, 1, plan.length, MODEL.vocabulary)
        return measuring.train(options.program[0], settings, options.ranks, options.threads, options.launcher)


class Row:
    def __init__(self, plan, run):
        self.plan = plan
        self.seconds = min(run.steps["seconds"])
        self.per_token = self.seconds / plan.length
        self.flop_rate = work.executed_flop(MODEL, plan) / self.seconds
        self.peak = run.steps["peak_bytes_host"].max()
        self.sent = run.steps["halo_bytes"][0]
        self.waiting = run.communication(0)


def mib(count):
    return f"{count / MIB:.1f}"


def traffic(plan):
    return [mib(work.ulysses_bytes(MODEL, plan)), mib(work.ring_bytes(MODEL, plan))]


def work_per_token(plan):
    return work.executed_flop(MODEL, plan) / plan.length


def cells(row, first, formula):
    plan = row.plan
    return [plan.length, plan.chunks, f"{row.seconds:.2f}", f"{1e6 * row.per_token:.2f}",
            f"{row.per_token / first.per_token:.3f}", f"{work_per_token(plan) / work_per_token(first.plan):.3f}",
            f"{row.flop_rate / GIGA:.1f}", measuring.percent(row.waiting), mib(row.peak), mib(row.sent),
            "equal" if row.sent == formula else f"{mib(formula)}!", *traffic(plan)]


HEADER = ["tokens", "chunks", "seconds", "us a token", "of the first", "by work", "GFLOP/s", "communication",
          "MiB resident a rank", "MiB sent", "formula", "Ulysses", "ring"]


def report(title, lengths, group, formula, options):
    rows = []
    for length in lengths:
        rows.append(Row(schedule(length, group, options), measure(schedule(length, group, options), options)))
        print(f"{title}, {length} tokens: {rows[-1].seconds:.2f} s, {mib(rows[-1].peak)} MiB", flush=True)
    print(f"\n{title}; {options.ranks} ranks x {options.threads}, shards of {options.shard} tokens; "
          "bytes of a step, all ranks")
    measuring.table(HEADER, [cells(row, rows[0], formula(MODEL, row.plan)) for row in rows])
    return rows


def report_expected(lengths, measured, options):
    """Full attention at the lengths of S2-Attn, from the longest row that was measured."""
    longest = measured[-1]
    rows = []
    for length in lengths:
        plan = schedule(length, None, options)
        seconds = work.executed_flop(MODEL, plan) / longest.flop_rate
        rows.append([length, plan.chunks, f"{seconds:.0f}", f"{1e6 * seconds / length:.1f}",
                     mib(work.full_attention_bytes(MODEL, plan)), *traffic(plan)])
    print(f"full attention, expected from its FLOP at {longest.flop_rate / GIGA:.1f} GFLOP/s, not measured")
    measuring.table(["tokens", "chunks", "seconds", "us a token", "MiB sent", "Ulysses", "ring"], rows)


def parse():
    options = measuring.parser(__doc__)
    options.add_argument("--lengths", type=measuring.numbers, default=[65536, 131072, 262144, 524288, 1048576])
    options.add_argument("--full-lengths", type=measuring.numbers, default=[8192, 16384, 32768])
    options.add_argument("--group", type=int, default=512)
    options.add_argument("--shard", type=int, default=4096)
    options.add_argument("--ranks", type=int, default=2)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--steps", type=int, default=2, help="the quickest counts")
    found = measuring.parse(options)
    unit = found.ranks * found.shard
    if found.shard % found.group or any(length % unit for length in found.lengths + found.full_lengths):
        raise SystemExit(f"lengths must be multiples of {unit}, the shard of the group")
    return found


def main():
    options = parse()
    measuring.announce()
    if options.lengths:
        report("S2-Attn", options.lengths, options.group, work.halo_bytes, options)
    if options.full_lengths:
        full = report("full attention", options.full_lengths, None, work.full_attention_bytes, options)
        beyond = [length for length in options.lengths if length > full[-1].plan.length]
        report_expected(beyond, full, options)


if __name__ == "__main__":
    main()
