#!/usr/bin/env python3
"""Makes tokenizers.json: small tokenizer.json files of every kind that `prepare` reads, texts, and what Hugging Face's library
makes of them (pip: tokenizers 0.23). tests/app/tokenizer_json_test.py compares.

    make_tokenizers.py > tokenizers.json
"""

import json
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
LEARNED = """The halo of a half-group is all that a rank needs from its neighbour, and nothing else travels.
It's the 2023 paper's idea: they'd shift half of the heads, and we've kept it. In 1,048,576 tokens there are 64 chunks.
Übergänge zwischen Gruppen; naïve façade, 你好世界, Ελληνικά.
  indented    lines\tand tabs
""" * 3
SPECIAL = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot|>"]
TEXTS = [
    "The halo of a half-group",
    " leading and trailing  ",
    "It's what they'd've SAID: IT'S 12345678 tokens, 1,048,576!!!\n\n\n  And\r\n\tso on...   \n",
    "naïve façade Übergang 你好，世界 Ελληνικά שלום ｆｕｌｌ ½ ² Ⅷ",
    "emoji 👩‍💻🇩🇪 and combining e\u0301 and a zero\u200bwidth \u00a0 nbsp \u3000 wide \u2028 line",
    "a" * 200 + " " * 70 + "ab" * 100 + "\n" * 5,
    "half-group<|eot|>The halo <|eot|><|begin_of_text|>x <|eo",
    "\n",
    " ",
    "\u2581 a mark \u2581that is\u2581one",
    "def f(x):\n    return x**2  # comment\n\n\n    y = '''text'''\n",
]


def trained(tokenizer, size, alphabet, special):
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(LEARNED.splitlines(keepends=True), trainer)
    return json.loads(tokenizer.to_str())


def byte_level(pre_tokenizer, size=420, **changes):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    saved = trained(tokenizer, size, pre_tokenizers.ByteLevel.alphabet(), [])
    saved["model"].update(changes)
    return add_special(Tokenizer.from_str(json.dumps(saved)))


def add_special(tokenizer):
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    return tokenizer


def characters(has_bytes, normalizer=None, pre_tokenizer=None, **model):
    """As SentencePiece models are converted: <unk>, BOS, EOS, 256 bytes, then what was learned."""
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.Replace(" ", "\u2581")
    learned = trained(learner, 160, [], [])["model"]
    first = ["<unk>"] + ([f"<0x{byte:02X}>" for byte in range(256)] if has_bytes else [])
    tokens = first + [token for token, _ in sorted(learned["vocab"].items(), key=lambda item: item[1])]
    tokens = [token for token in tokens if token not in "你世"]   # characters that no merge needs: unknown ones
    vocab = {token: i for i, token in enumerate(tokens)}
    merges = [tuple(merge) for merge in learned["merges"] if merge[0] in vocab and merge[1] in vocab and "".join(merge) in vocab]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=has_bytes, **model))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    return add_special(tokenizer)


def cases():
    split = pre_tokenizers.Split(Regex(LLAMA3), behavior="isolated", invert=False)
    llama3 = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    prepend = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    metaspace = pre_tokenizers.Metaspace
    yield "llama3", byte_level(llama3)
    yield "llama3_whole_words", byte_level(llama3, ignore_merges=True)
    yield "gpt2", byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True))
    yield "gpt2_prefix", byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True))
    yield "llama2", characters(True, normalizer=prepend, fuse_unk=True)
    yield "unknown", characters(False, normalizer=prepend, fuse_unk=False)
    yield "unknown_fused", characters(False, normalizer=prepend, fuse_unk=True)
    yield "metaspace_first", characters(True, pre_tokenizer=metaspace(prepend_scheme="first", split=False))
    yield "metaspace_words", characters(True, pre_tokenizer=metaspace(prepend_scheme="always", split=True))
    yield "metaspace_never", characters(True, pre_tokenizer=metaspace(prepend_scheme="never", split=False))


def main():
    made = []
    for name, tokenizer in cases():
        ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]
        made.append({"name": name, "tokenizer": json.loads(tokenizer.to_str()), "ids": ids})
    json.dump({"texts": TEXTS, "special": SPECIAL, "cases": made}, sys.stdout, ensure_ascii=True, separators=(",", ":"))
    print()


if __name__ == "__main__":
    main()
