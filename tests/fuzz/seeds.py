#!/usr/bin/env python3
"""Writes the corpora that the fuzz targets begin with: seeds.py DIR makes DIR/<target>/<seed>, all of them intact files.

A fuzzer that begins with nothing does not get past the first check of a format; least of all in SentencePiece, which is
not instrumented.
"""

import io
import json
import struct
import sys
from pathlib import Path

import numpy as np

CONFIG = {"model_type": "llama", "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2,
          "num_key_value_heads": 1, "vocab_size": 10, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 1e4,
          "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False}
ADAPTER = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": False,
           "target_modules": ["q_proj", "v_proj"], "modules_to_save": ["embed_tokens"], "task_type": "CAUSAL_LM"}


def configs():
    """The first byte chooses: a is an adapter's."""
    yield "config", json.dumps(CONFIG)
    yield "rope_scaling", json.dumps({**CONFIG, "rope_scaling": {"type": "linear", "factor": 8.0}})
    yield "rope_parameters", json.dumps({**CONFIG, "rope_parameters": {"rope_type": "linear", "factor": 2, "rope_theta": 1e4},
                                         "head_dim": 4, "eos_token_id": [2, 3]}, indent=2)
    yield "adapter", "a" + json.dumps(ADAPTER)
    yield "adapter_few", "a" + json.dumps({**ADAPTER, "target_modules": ["o_proj"], "modules_to_save": None})


def safetensors(tensors):
    """`tensors`: name -> (dtype, shape, bytes)."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def weights():
    numbers = np.linspace(-1, 1, 12)
    f32, f16 = numbers.astype("<f4").tobytes(), numbers.astype("<f2").tobytes()
    bf16 = (numbers.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    yield "f32", safetensors({"model.norm.weight": ("F32", [12], f32)})
    yield "several", safetensors({"a": ("F32", [3, 4], f32), "b": ("F16", [4, 3], f16), "c": ("BF16", [12], bf16)})
    yield "scalar_and_empty", safetensors({"a": ("F32", [], f32[:4]), "b": ("F32", [0, 4], b"")})
    yield "unread_types", safetensors({"a": ("I64", [1], bytes(8)), "b": ("BOOL", [2], bytes(2)), "c": ("F8_E4M3", [3], bytes(3))})


def arrays():
    for name, array in (("row", np.arange(9)), ("one", np.array([7])), ("none", np.array([])),
                        ("long", np.arange(300) % 61)):
        file = io.BytesIO()
        np.save(file, array.astype("<i4"))
        yield name, file.getvalue()
    file = io.BytesIO()
    np.lib.format.write_array(file, np.arange(9, dtype="<i4"), version=(2, 0))
    yield "version_2", file.getvalue()


def inis():
    for path in sorted((Path(__file__).resolve().parents[2] / "config").glob("*.ini")):
        yield path.stem, path.read_bytes()
    yield "short", "[train]\nsteps = 3  # comment\nlearning_rate = 1e-3\n[tune]\ntargets = q_proj,v_proj\nmode = lora\n"


# ---- SentencePiece: a protocol buffer (sentencepiece_model.proto), by hand

BPE, UNIGRAM = 2, 1
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6


def number(field, value):
    return varint(field << 3) + varint(value)


def varint(value):
    head = value & 0x7F
    return bytes([head]) if value < 0x80 else bytes([head | 0x80]) + varint(value >> 7)


def block(field, content):
    return varint(field << 3 | 2) + varint(len(content)) + content


def piece(text, score, kind):
    return block(1, block(1, text.encode()) + varint(2 << 3 | 5) + struct.pack("<f", score) + number(3, kind))


def sentencepiece(kind, words, has_bytes):
    pieces = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)]
    pieces += [(f"<0x{byte:02X}>", BYTE) for byte in range(256 if has_bytes else 0)]
    pieces += [(word, NORMAL) for word in words]
    trainer = number(3, kind) + number(4, len(pieces)) + number(35, int(has_bytes)) + number(40, 0) + number(41, 1) + number(42, 2)
    normalizer = block(1, b"identity") + number(3, 1) + number(4, 0) + number(5, 1)  # a space before, none removed, escaped
    return (b"".join(piece(text, -float(at), type_) for at, (text, type_) in enumerate(pieces)) +
            block(2, trainer) + block(3, normalizer))


def tokenizers():
    letters = list("▁Onceupatimüé.\n")
    yield "bpe", sentencepiece(BPE, ["on", "up", "▁a", "▁up", "▁upon", "ti", "me", *letters], False)
    yield "bpe_bytes", sentencepiece(BPE, ["▁t", "▁ti", "▁time", "im", "me", *letters[:8]], True)
    yield "unigram", sentencepiece(UNIGRAM, ["▁Once", "▁upon", "▁time", "▁a", *letters], False)
    yield "unigram_bytes", sentencepiece(UNIGRAM, ["▁"], True)


CORPORA = {"json": configs, "safetensors": weights, "npy": arrays, "ini": inis, "tokenizer": tokenizers}


def main():
    for target, seeds in CORPORA.items():
        folder = Path(sys.argv[1]) / target
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in seeds():
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


if __name__ == "__main__":
    main()
