"""The oracle's cases: tiny models, adapters and tokens, the same on every machine, and how to write them to disk.

Numbers come from an integer hash of (tensor name, index), so no library's generator, version or platform can
change them. Everything here needs numpy alone.
"""

import fnmatch
import hashlib
import json
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ORACLE = Path(__file__).resolve().parent
EXPECTED = ORACLE / "expected"
CHECKOUT = ORACLE.parents[1]
MODELS = CHECKOUT.parent / "shared" / "data" / "models"

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")

# The settings of the optimiser check; oracle.py and check.py both read them.
ADAMW = {"steps": 3, "learning_rate": 1e-2, "warmup_steps": 2, "weight_decay": 0.1, "clip_norm": 1.0}


@dataclass(frozen=True)
class Case:
    name: str
    # The model.
    width: int = 32
    layers: int = 2
    heads: int = 4
    kv_heads: int = 4
    head_dim: int = 0  # 0: not written to config.json, so width / heads
    mlp: int = 56
    vocabulary: int = 61
    tied: bool = False
    epsilon: float = 1e-5
    rope_theta: float = 10000.0
    config_rope: str = ""  # "rope_scaling" or "rope_parameters": the spelling in config.json
    config_factor: float = 1.0
    stored: str = "F32"
    shards: int = 1
    real_model: str = ""  # a folder of shared/data/models: replaces all of the above
    # The run.
    tokens: int = 64
    group: int = 16
    pattern: str = "s2"
    boundary: str = "truncate"
    rows: int = 1
    option_factor: float = 0.0  # 0: no rope option on the command line
    mode: str = "lora_plus"
    targets: tuple = ATTENTION
    rank: int = 4
    alpha: int = 6
    gain_b: float = 0.5
    adapter_saves: bool = False  # the adapter brings its own embeddings and norms
    adamw: bool = False

    @property
    def has_adapter(self):
        return self.mode != "full"


@dataclass(frozen=True)
class Inputs:
    config: dict
    base: dict  # name -> float32, exactly what the stored type holds
    adapter_config: dict
    adapter: dict
    tokens: np.ndarray  # (rows, N + 1)


CASES = (
    Case("s2"),
    Case("s2_half_group_left", tokens=66, group=12),
    Case("s2_many_groups", tokens=128, group=8, layers=3),
    Case("s2_one_group", tokens=64, group=64),
    Case("s2_long_group", tokens=96, group=32),
    Case("s2_wrap", boundary="wrap"),
    Case("local", pattern="local"),
    Case("local_half_group_left", pattern="local", tokens=40),
    Case("shifted", pattern="shifted"),
    Case("shifted_half_group_left", pattern="shifted", tokens=40),
    Case("shifted_wrap", pattern="shifted", boundary="wrap"),
    Case("full", pattern="full", tokens=50),
    Case("full_grouped_query", pattern="full", kv_heads=2),
    Case("grouped_query", kv_heads=2),
    Case("grouped_query_wrap", kv_heads=2, boundary="wrap"),
    Case("heads_9_3", width=72, heads=9, kv_heads=3, head_dim=8),
    Case("heads_9_3_wrap", width=72, heads=9, kv_heads=3, head_dim=8, boundary="wrap", targets=("q_proj", "v_proj")),
    Case("heads_3", width=48, heads=3, kv_heads=3),
    Case("heads_3_1", width=48, heads=3, kv_heads=1),
    Case("head_dim", width=40, heads=4, kv_heads=2, head_dim=12, epsilon=1e-2),
    Case("tied", tied=True),
    Case("tied_lora", tied=True, mode="lora"),
    Case("rope_scaling", config_rope="rope_scaling", config_factor=8.0, rope_theta=5000.0),
    Case("rope_parameters", config_rope="rope_parameters", config_factor=4.0, rope_theta=50000.0),
    Case("rope_option", option_factor=2.0),
    Case("rope_option_replaces", config_rope="rope_scaling", config_factor=8.0, option_factor=2.5),
    Case("two_targets", targets=("q_proj", "v_proj"), rank=3),
    Case("seven_targets", targets=ATTENTION + MLP, kv_heads=2),
    Case("seven_targets_lora", targets=ATTENTION + MLP, mode="lora", vocabulary=97),
    Case("lora", mode="lora", rank=8, alpha=16),
    Case("all_weights", mode="full", kv_heads=2),
    Case("all_weights_tied", mode="full", tied=True, tokens=40, group=8),
    Case("batch_3", rows=3, tokens=32, group=8, vocabulary=97),
    Case("stored_bf16", stored="BF16", kv_heads=2),
    Case("stored_f16", stored="F16", tied=True),
    Case("sharded", shards=2, layers=3),
    Case("adapter_saves", adapter_saves=True),
    Case("adapter_saves_tied", adapter_saves=True, tied=True),
    Case("adamw", adamw=True, rows=2, tokens=32, group=8, kv_heads=2),
    Case("adamw_all_weights", adamw=True, mode="full", tied=True, rows=2, tokens=32, group=8, kv_heads=2),
    Case("stories260k", real_model="stories260k", tokens=1024, group=256, option_factor=2.0, rank=8, alpha=16,
         gain_b=0.2),
)


def select(patterns):
    """The cases that match any of the shell patterns; all without patterns. A pattern without a match is an error."""
    if not patterns:
        return list(CASES)
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(case.name, pattern) for case in CASES):
            raise SystemExit(f"no case is called {pattern}")
    return [case for case in CASES if any(fnmatch.fnmatchcase(case.name, pattern) for pattern in patterns)]


def expected_path(case):
    return EXPECTED / f"{case.name}.npz"


def missing_model(case):
    """Why the case cannot be built here, or nothing."""
    if case.real_model and not (MODELS / case.real_model / "model.safetensors").is_file():
        return f"no {MODELS / case.real_model}"
    return ""


# ---- numbers


def hashes(name, count):
    """splitmix64 of (digest of name) + index: `count` 64-bit integers."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def normal(name, shape):
    """Nearly normal, mean 0, variance 1: the sum of four 16-bit fields. No log or cos, whose last bit varies."""
    z = hashes(name, int(np.prod(shape)))
    fields = sum(((z >> np.uint64(shift)) & np.uint64(0xFFFF)).astype(np.int64) for shift in (0, 16, 32, 48))
    return ((fields - 131070) * (np.sqrt(3.0) / 65536)).reshape(shape)


def token_rows(name, rows, length, vocabulary):
    return (hashes(name, rows * length) % np.uint64(vocabulary)).astype(np.int32).reshape(rows, length)


def bf16_bits(x):
    """float32 -> bfloat16, to nearest, ties to even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)


def bf16_values(bits):
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_stored(x, stored):
    """float32 -> the raw array that a file of this type holds."""
    return {"F32": lambda: x, "F16": lambda: x.astype(np.float16), "BF16": lambda: bf16_bits(x)}[stored]()


def from_stored(raw, stored):
    return bf16_values(raw) if stored == "BF16" else raw.astype(np.float32)


def rounded(x, stored):
    return from_stored(to_stored(x, stored), stored)


# ---- models


def head_dim(config):
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def linear_shapes(config):
    """Shape (out, in) of each linear layer of a block."""
    width, mlp = config["hidden_size"], config["intermediate_size"]
    q = config["num_attention_heads"] * head_dim(config)
    kv = config["num_key_value_heads"] * head_dim(config)
    return {"self_attn.q_proj": (q, width), "self_attn.k_proj": (kv, width), "self_attn.v_proj": (kv, width),
            "self_attn.o_proj": (width, q), "mlp.gate_proj": (mlp, width), "mlp.up_proj": (mlp, width),
            "mlp.down_proj": (width, mlp)}


# Gains of the linear layers: scores with a standard deviation near 2, so that the softmax is neither flat nor one-hot.
GAINS = {"q_proj": 1.5, "k_proj": 1.5, "v_proj": 1.0, "o_proj": 0.7, "gate_proj": 1.2, "up_proj": 1.2, "down_proj": 0.7}


def linear_weight(key, shape, gain):
    return gain / np.sqrt(shape[1]) * normal(key, shape)


def norm_names(config):
    names = []
    for layer in range(config["num_hidden_layers"]):
        names += [f"model.layers.{layer}.{norm}.weight" for norm in ("input_layernorm", "post_attention_layernorm")]
    return names + ["model.norm.weight"]


def base_tensors(case, config):
    """The frozen model as float64, not yet rounded to the type of the file."""
    width, vocabulary = config["hidden_size"], config["vocab_size"]
    key = f"{case.name}/base/"
    tensors = {"model.embed_tokens.weight": 0.5 * normal(key + "embed", (vocabulary, width))}
    for name in norm_names(config):
        tensors[name] = 1 + 0.2 * normal(key + name, (width,))
    for layer in range(config["num_hidden_layers"]):
        for linear, shape in linear_shapes(config).items():
            name = f"model.layers.{layer}.{linear}.weight"
            tensors[name] = linear_weight(key + name, shape, GAINS[linear.split(".")[1]])
    if not config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = linear_weight(key + "head", (vocabulary, width), 2.0)
    return tensors


def model_config(case):
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": case.width, "intermediate_size": case.mlp, "num_hidden_layers": case.layers,
        "num_attention_heads": case.heads, "num_key_value_heads": case.kv_heads, "vocab_size": case.vocabulary,
        "max_position_embeddings": max(8, int(case.tokens / max(case.config_factor, case.option_factor))),
        "rms_norm_eps": case.epsilon, "tie_word_embeddings": case.tied, "attention_bias": False, "mlp_bias": False,
        "bos_token_id": 1, "eos_token_id": 2,
        "torch_dtype": {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[case.stored],
    }
    if case.head_dim:
        config["head_dim"] = case.head_dim
    if case.config_rope == "rope_parameters":
        config["rope_parameters"] = {"rope_type": "linear", "factor": case.config_factor, "rope_theta": case.rope_theta}
    else:
        config["rope_theta"] = case.rope_theta
        scaled = case.config_rope == "rope_scaling"
        config["rope_scaling"] = {"type": "linear", "factor": case.config_factor} if scaled else None
    return config


def adapter_config(case):
    saved = ["embed_tokens", "input_layernorm", "post_attention_layernorm", "norm"] + ["lm_head"] * case.tied
    return {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "base", "bias": "none",
            "fan_in_fan_out": False, "inference_mode": True, "r": case.rank, "lora_alpha": case.alpha,
            "lora_dropout": 0.0, "target_modules": list(case.targets),
            "modules_to_save": saved if case.adapter_saves else None}


def adapter_name(base_name):
    return "base_model.model." + base_name


def adapter_tensors(case, config):
    """LoRA's A and B, B not zero, and where the case asks for it embeddings and norms other than the base's."""
    key = f"{case.name}/adapter/"
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for linear, (rows, columns) in linear_shapes(config).items():
            if linear.split(".")[1] in case.targets:
                name = adapter_name(f"model.layers.{layer}.{linear}.")
                tensors[name + "lora_A.weight"] = linear_weight(key + name + "A", (case.rank, columns), 1.0)
                tensors[name + "lora_B.weight"] = linear_weight(key + name + "B", (rows, case.rank), case.gain_b)
    if case.adapter_saves:
        shape = (config["vocab_size"], config["hidden_size"])
        tensors[adapter_name("model.embed_tokens.weight")] = 0.5 * normal(key + "embed", shape)
        for name in norm_names(config):
            tensors[adapter_name(name)] = 1 + 0.2 * normal(key + name, shape[1:])
        if case.tied:
            tensors[adapter_name("lm_head.weight")] = tensors[adapter_name("model.embed_tokens.weight")]
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


def build(case):
    if case.real_model:
        folder = MODELS / case.real_model
        config = json.loads((folder / "config.json").read_text())
        base = read_safetensors(folder / "model.safetensors")
    else:
        config = model_config(case)
        exact = base_tensors(case, config)
        base = {name: rounded(tensor.astype(np.float32), case.stored) for name, tensor in exact.items()}
    return Inputs(config, base,
                  adapter_config(case) if case.has_adapter else {},
                  adapter_tensors(case, config) if case.has_adapter else {},
                  token_rows(f"{case.name}/tokens", case.rows, case.tokens + 1, config["vocab_size"]))


def physics_options(case):
    """The options that, beside the files, define the numbers of a run."""
    options = {"tune.mode": case.mode, "sequence.length": case.tokens, "attention.pattern": case.pattern,
               "attention.group": case.group, "attention.boundary": case.boundary, "train.batch": case.rows}
    if case.option_factor:
        options.update({"rope.scaling": "linear", "rope.factor": case.option_factor})
    return options


def digest(case, inputs):
    """Of everything that the expected numbers follow from, so that stale ones are noticed."""
    settings = [inputs.config, inputs.adapter_config, physics_options(case), ADAMW if case.adamw else {}]
    total = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in sorted({**inputs.base, **inputs.adapter, "tokens": inputs.tokens}.items()):
        total.update(name.encode() + np.ascontiguousarray(tensor).tobytes())
    return total.hexdigest()


# ---- files


DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}


def read_safetensors(path):
    """name -> float32."""
    data = path.read_bytes()
    header_bytes = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + header_bytes])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = (8 + header_bytes + offset for offset in entry["data_offsets"])
        raw = np.frombuffer(data[begin:end], DTYPES[entry["dtype"]]).reshape(entry["shape"])
        tensors[name] = from_stored(raw, entry["dtype"])
    return tensors


def write_safetensors(path, tensors, stored="F32"):
    """Returns the bytes of the tensors."""
    header, blobs, offset = {"__metadata__": {"format": "pt"}}, [], 0
    for name, tensor in tensors.items():
        blob = to_stored(tensor, stored).tobytes()
        header[name] = {"dtype": stored, "shape": list(tensor.shape), "data_offsets": [offset, offset + len(blob)]}
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the tensors start on a multiple of 8
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))
    return offset


def write_sharded(folder, tensors, stored, shards):
    """The tensors dealt to `shards` files in turn, so that a layer's are in different files, and the index."""
    files = [f"model-{i + 1:05d}-of-{shards:05d}.safetensors" for i in range(shards)]
    names = list(tensors)
    size = sum(write_safetensors(folder / files[i], {name: tensors[name] for name in names[i::shards]}, stored)
               for i in range(shards))
    index = {"metadata": {"total_size": size}, "weight_map": {name: files[i % shards] for i, name in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))


def write_model(case, inputs, folder):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(inputs.config, indent=1))
    if case.shards > 1:
        write_sharded(folder, inputs.base, case.stored, case.shards)
    else:
        write_safetensors(folder / "model.safetensors", inputs.base, case.stored)


def write_adapter(inputs, folder):
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(inputs.adapter_config, indent=1))
    write_safetensors(folder / "adapter_model.safetensors", inputs.adapter)


def write(case, inputs, folder):
    """Writes what the program reads under `folder` and returns its path options."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    options = {"model.path": folder / "model", "data.train": folder / "tokens.npy"}
    if case.real_model:
        options["model.path"] = MODELS / case.real_model
    else:
        write_model(case, inputs, options["model.path"])
    if case.has_adapter:
        options["tune.adapter"] = folder / "adapter"
        write_adapter(inputs, options["tune.adapter"])
    np.save(options["data.train"], inputs.tokens.reshape(-1))
    return options
