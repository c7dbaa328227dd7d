"""How much gpu_check.py does: full, quick (a minute or two a part, the same shapes), tiny (for the emulator)."""

import json

import work

LLAMA2_7B = work.Model(layers=32, width=4096, heads=32, kv_heads=32, mlp_width=11008, vocabulary=32000)
LLAMA3_8B = work.Model(layers=32, width=4096, heads=32, kv_heads=8, mlp_width=14336, vocabulary=128256)
SMALL = work.Model(layers=4, width=1024, heads=16, kv_heads=8, mlp_width=2816, vocabulary=32000)
TINY = work.Model(layers=2, width=32, heads=4, kv_heads=2, mlp_width=56, vocabulary=61)


def cases(lengths, groups, heads):
    return [(tokens, group, *pair) for tokens in lengths for group in groups for pair in heads]


FULL = {
    "rates": {"seconds": 0.5},
    "attention": {"cases": cases((32768, 131072), (2048, 8192), ((32, 32), (32, 8))), "head_dim": 128, "seconds": 1.0,
                  "kernels": ("automatic", "tensor_cores")},
    "small": {"seconds": 0.3},
    "step": {"model": LLAMA2_7B, "length": 32768, "group": 8192, "steps": 5, "torch_steps": 4, "options": {},
             # Some of what the GPU has no room for, and all of it.
             "offload": (28, 48), "offload_options": {}},
    "streaming": {"models": {"7B": LLAMA2_7B, "8B": LLAMA3_8B}, "lengths": (65536, 262144, 1048576), "group": 8192,
                  "shard": 16384, "compared": 32768, "compared_chunks": 4, "slowest": 7000,
                  "only": "", "options": {}},
    "ranks": {"model": SMALL, "length": 32768, "group": 2048, "ranks": (1, 2, 4), "steps": 3, "options": {}},
}
QUICK = {
    **FULL,
    "rates": {"seconds": 0.1},
    "attention": {**FULL["attention"], "cases": cases((32768,), (2048, 8192), ((32, 32), (32, 8))), "seconds": 0.2},
    "small": {"seconds": 0.1},
    "step": {**FULL["step"], "steps": 3, "torch_steps": 2},
    "streaming": {**FULL["streaming"], "models": {"7B": LLAMA2_7B}, "lengths": (65536, 131072)},
    "ranks": {**FULL["ranks"], "length": 8192, "ranks": (1, 2), "steps": 2},
}
TINY_SCALE = {
    "rates": {"tokens": 64, "width": 64, "kv_width": 32, "mlp_width": 96, "vocabulary": 128, "square": 64, "copy_mib": 1,
              "seconds": 0.01},
    "attention": {"cases": cases((128,), (32,), ((4, 4), (4, 2))), "head_dim": 16, "seconds": 0.01,
                  "kernels": ("automatic",)},
    "small": {"tokens": 64, "width": 64, "mlp_width": 96, "vocabulary": 128, "head_rows": 16, "heads": 4,
              "seconds": 0.01},
    "step": {"model": TINY, "length": 256, "group": 64, "steps": 3, "torch_steps": 2, "options": {},
             "offload": (0.1,), "offload_options": {"train.activations": "recompute_mlp"}},
    "streaming": {"models": {"tiny": TINY}, "lengths": (256, 512), "group": 64, "shard": 128, "compared": 256,
                  "compared_chunks": 2, "slowest": 100, "only": "", "options": {}},
    "ranks": {"model": TINY, "length": 256, "group": 64, "ranks": (1, 2, 4), "steps": 2, "options": {}},
}
SCALES = {"full": FULL, "quick": QUICK, "tiny": TINY_SCALE}


def scaled(options):
    """The scale of the options, with what --set changes: PART.KEY=VALUE, VALUE as JSON; model.layers reaches into a model."""
    scale = {part: dict(values) for part, values in SCALES[options.scale].items()}
    for text in options.set:
        place, _, value = text.partition("=")
        part, key, *inner = place.split(".")
        if part not in scale or (key not in scale[part] and part not in ("rates", "small")):
            raise SystemExit(f"--set {text}: there is no {place}")
        value = read(value)
        if inner:
            value = work.Model(**{**vars(scale[part][key]), inner[0]: value})
        scale[part][key] = tuple(map(tuple_of, value)) if isinstance(value, list) else value
    return scale


def read(text):
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def tuple_of(value):
    return tuple(value) if isinstance(value, list) else value
