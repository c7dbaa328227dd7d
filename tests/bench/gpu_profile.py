"""Where a step's seconds should go: the operations of a layer one by one, as the parts rates, attention and small of the
same output folder have measured them, times how often the model starts them (src/model)."""

import math

# Of one layer: how often each operation runs over all tokens.
LINEAR_FORWARD = {"q": 1, "kv": 2, "o": 1, "gate_up": 2, "down": 1}
LINEAR_BACKWARD = {"q_dgrad": 1, "kv_dgrad": 2, "o_dgrad": 1, "gate_dgrad": 1, "up_dgrad": 1, "down_dgrad": 1}
LORA = {"lora_down": 3 * 4, "lora_up": 2 * 4}  # q, k, v, o: xa twice and dxa; y and dx
SMALL_FORWARD = {"rms_norm_forward": 2, "rope": 2, "swiglu_forward": 1}
SMALL_BACKWARD = {"rms_norm_again": 2, "rms_norm_backward": 2, "swiglu_backward": 1, "rope_gradient": 2, "convert": 3}
# Once a step.
ENDS = {"embedding_forward": 1, "embedding_gradient": 1, "fixed_point_value": 1, "squared_norms": 1, "adamw_step": 1}
TILE = 4096  # tokens of cuda_rates' head and of its gradients of LoRA's factors


def report(check, seconds):
    """A row for each kind of operation, and their sum beside the step that was measured."""
    scale = check.scale["step"]
    model, length, group = scale["model"], scale["length"], scale["group"]
    tiles = length / TILE
    tokens = check.scale["rates"].get("tokens", 32768)
    if (length, model.width, model.mlp_width) != (tokens, 4096, 11008):
        return  # the operations were measured at other shapes
    product = lambda counts: total(check, "rates", {f"matmul {name}": n for name, n in counts.items()})  # noqa: E731
    small = lambda counts: total(check, "small", counts)  # noqa: E731
    case = f"{length} G {group} {model.heads}/{model.kv_heads} automatic"
    attention = lambda name: total(check, "attention", {f"{name} {case}": 1})  # noqa: E731
    parts = {
        "linear forward": model.layers * product(LINEAR_FORWARD),
        "linear backward": model.layers * product(LINEAR_BACKWARD),
        "LoRA": model.layers * (product(LORA) + 4 * tiles * product({"lora_gradient_a": 1, "lora_gradient_b": 1})),
        "attention forward": model.layers * attention("forward"),
        "attention backward": model.layers * attention("backward"),
        "small forward": model.layers * small(SMALL_FORWARD),
        "small backward": model.layers * small(SMALL_BACKWARD),
        "head": tiles * (product({"head": 1, "head_dgrad": 1}) + small({"cross_entropy": 1})),
        "embedding, optimiser": small(ENDS),
    }
    known = {name: value for name, value in parts.items() if not math.isnan(value)}
    for name, value in known.items():
        check.add(f"by operation: {name}", f"{value:.3f} s", ratio=f"{100 * value / seconds:.1f} %", seconds=value)
    again = model.layers * product({"gate_up": 2})
    check.add("by operation: sum", f"{sum(known.values()):.3f} s", f"{seconds:.3f} s measured",
              f"{100 * sum(known.values()) / seconds:.1f} %",
              remark=f"without what is computed again: gate and up of all layers {again:.3f} s"
                     + ("" if len(known) == len(parts) else "; not measured here: " + ", ".join(parts.keys() - known.keys())))


def total(check, part, counts):
    return sum(count * check.table.value(part, name, "seconds") for name, count in counts.items())
