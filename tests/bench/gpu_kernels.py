"""Parts of gpu_check.py: the device's own rates, attention and the small kernels."""

import math

from gpu import BENCH, GIGA, TERA, share, tera

PASSES = ("forward", "backward")
AIMS = {("forward", 8192): 560, ("backward", 8192): 400}  # TFLOP/s on an H100, heads 128 wide


def measured_lines(check, name, words, limit):
    """The lines of a benchmark in the bundle; tells a failure as a row and returns none."""
    program = check.bundle.find(name)
    if program is None:
        check.add(name, "missing", remark="not in the bundle: bundle.sh --with-tests")
        return []
    result = check.runner.run([program, *words], min(limit, check.budget.left()))
    if result.code != 0 or result.is_late:
        check.fail(name, result.reason())
    return result.lines()


# ---- rates


def rates(check):
    scale = check.scale["rates"]
    lines = measured_lines(check, "cuda_rates", [f"{key}={value}" for key, value in scale.items()], 240)
    found = {line["name"]: line for line in lines if "name" in line}
    for name, line in found.items():
        if name.startswith("copy"):
            rate = line["bytes"] / line["seconds"]
            check.add(name, f"{rate / TERA:.3f} TB/s", rate=rate)
    square = rate_of(found.get("square"))
    for name, line in found.items():
        if "flop" in line:
            shape = "{m:.0f} x {n:.0f} x {k:.0f}".format(**line)
            moved = f"{line['bytes'] / line['seconds'] / TERA:.2f} TB/s"
            check.add(f"matmul {name}", tera(rate_of(line)), ratio=share(rate_of(line), square),
                      remark=f"{shape}, {1e6 * line['seconds']:.1f} us, {moved}", rate=rate_of(line), seconds=line["seconds"])


def rate_of(line):
    return line["flop"] / line["seconds"] if line else math.nan


# ---- attention


def attention(check):
    scale = check.scale["attention"]
    square = square_rate(check)
    own = {}
    for case in scale["cases"]:
        for kernels in scale["kernels"]:
            if not check.budget.allows(10 * scale["seconds"] + 5):
                check.cut_off()
                break
            own[case, kernels] = own_attention(check, case, kernels)
    beside = torch_attention(check)
    for (case, kernels), found in own.items():
        for name in PASSES:
            if name in found:
                report_attention(check, case, kernels, name, found, beside.get((case, name)), square)


def square_rate(check):
    """Clocks fall under load: the rate of products now, not that of another hour."""
    words = [*(f"{key}={value}" for key, value in check.scale["rates"].items()), "copy_mib=0", "shapes=0"]
    found = {line["name"]: line for line in measured_lines(check, "cuda_rates", words, 60) if "name" in line}
    rate = rate_of(found.get("square"))
    check.add("matmul square now", tera(rate), rate=rate)
    return rate


def own_attention(check, case, kernels):
    tokens, group, heads, kv_heads = case
    scale = check.scale["attention"]
    words = [f"tokens={tokens}", f"group={group}", f"heads={heads}", f"kv_heads={kv_heads}",
             f"head_dim={scale['head_dim']}", f"seconds={scale['seconds']}", f"kernels={kernels}"]
    lines = measured_lines(check, "cuda_attention", words, 60 + 10 * scale["seconds"])
    return {line["name"]: line for line in lines if "name" in line}


def torch_attention(check):
    scale = check.scale["attention"]
    cases = ",".join(":".join(map(str, case)) for case in scale["cases"])
    lines = check.beside("PyTorch", [BENCH / "torch_attention.py", "--cases", cases, "--head-dim", scale["head_dim"],
                                     "--seconds", scale["seconds"], "--device", check.torch_device])
    found = {}
    for line in lines:
        if line.get("name") in PASSES:
            case = tuple(int(line[key]) for key in ("tokens", "group", "heads", "kv_heads"))
            found[case, line["name"]] = line
    return found


def report_attention(check, case, kernels, name, found, torch, square):
    tokens, group, heads, kv_heads = case
    line = found[name]
    rate, bare = rate_of(line), rate_of(found.get(f"{name}_kernels"))
    aim = AIMS.get((name, group)) if check.scale["attention"]["head_dim"] == 128 else None
    beside = f"{tera(rate_of(torch))} ({1e3 * torch['seconds']:.2f} ms, {torch['variant']})" if torch else ""
    ratio = f"{torch['seconds'] / line['seconds']:.2f} x PyTorch" if torch else ""
    check.add(f"{name} {tokens} G {group} {heads}/{kv_heads} {kernels}",
              f"{tera(rate)} ({1e3 * line['seconds']:.2f} ms)", beside, ratio, f"{aim} TFLOP/s" if aim else "",
              f"{share(rate, square)} of matmul; kernels alone {tera(bare)}", rate=rate, seconds=line["seconds"],
              torch_seconds=torch["seconds"] if torch else math.nan)


# ---- small kernels


def small(check):
    copy = check.table.value("rates", "copy_by_kernel", "rate")
    words = [f"{key}={value}" for key, value in check.scale["small"].items()]
    for line in measured_lines(check, "cuda_small", words, 240):
        if "name" not in line:
            continue
        if line["name"] == "copy":
            copy = line["bytes"] / line["seconds"]
        rate = line["bytes"] / line["seconds"]
        check.add(line["name"], f"{1e6 * line['seconds']:.1f} us", f"{rate / GIGA:.0f} GB/s", share(rate, copy) + " of copy",
                  "85 %" if line.get("is_wide", 1) else "", f"{line['bytes'] / 1e6:.1f} MB", rate=rate, seconds=line["seconds"])
