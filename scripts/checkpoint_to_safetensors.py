#!/usr/bin/env python3
"""Makes a Hugging Face model directory of a checkpoint of tune.mode full.

    checkpoint_to_safetensors.py CHECKPOINT.h5 DIRECTORY

Writes DIRECTORY/config.json and DIRECTORY/model.safetensors (float16, rounded to nearest even).
The checkpoint must come from a random start (model.path empty): its options hold the sizes.
"""
import json
import struct
import sys
from pathlib import Path

try:
    import h5py
    import numpy as np
except ImportError:
    sys.exit("checkpoint_to_safetensors.py needs h5py and numpy (Debian: python3-h5py, and /usr/bin/python3)")


def config_of(attributes):
    """config.json of the model that the options describe, with a head of its own or tied."""
    def number(key):
        return int(attributes[key].decode())

    heads = number("model.heads")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": number("model.width"),
        "intermediate_size": number("model.mlp_width"),
        "num_hidden_layers": number("model.layers"),
        "num_attention_heads": heads,
        "num_key_value_heads": number("model.kv_heads") or heads,
        "head_dim": number("model.head_dim") or number("model.width") // heads,
        "vocab_size": number("model.vocabulary"),
        "max_position_embeddings": number("sequence.length"),
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": None,
        "eos_token_id": None,
        "torch_dtype": "float16",
    }


def write_safetensors(path, tensors):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, values in tensors.items():
        end = offset + values.nbytes
        header[name] = {"dtype": "F16", "shape": list(values.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(t.tobytes() for t in tensors.values()))


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    checkpoint, directory = map(Path, sys.argv[1:])
    with h5py.File(checkpoint) as file:
        mode = file.attrs["tune.mode"].decode()
        if mode != "full" or file.attrs["model.path"]:
            sys.exit(f"{checkpoint} is of tune.mode {mode} from model.path "
                     f"'{file.attrs['model.path'].decode()}'; needed is mode full from a random start")
        config = config_of(file.attrs)
        tensors = {name: data[()].astype("<f2") for name, data in file["trainable"].items()}
    for name, values in tensors.items():
        if not np.isfinite(values).all():
            sys.exit(f"{checkpoint}: {name} does not fit into float16")
    config["tie_word_embeddings"] = "lm_head.weight" not in tensors
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    write_safetensors(directory / "model.safetensors", tensors)


main()
