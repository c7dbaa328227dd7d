"""The independent oracle: LLaMA with S2-Attn in PyTorch, float64, with autograd's gradients.

S2-Attn is written as in the LongLoRA paper's code, by rolling the tokens and cutting them into groups, not by masks
over absolute positions as the program has it: an error in the one is not an error in the other.

    oracle.py [CASE ...]            writes expected/<case>.npz
    oracle.py --verify [CASE ...]   computes again and compares with the stored files
    oracle.py --self-test           compares roll-and-cut attention with a mask, pair by pair
"""

import argparse
import math
import sys

try:
    import numpy as np
    import torch
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

import cases

VERIFY_LIMIT = 1e-6


# ---- S2-Attn: q, k, v are (heads, tokens, head_dim), k and v already repeated for grouped queries


def causal_attention(q, k, v):
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return torch.softmax(scores.masked_fill(later, -math.inf), dim=-1) @ v


def cut(length, first, group):
    """The sizes of pieces of `group` tokens after a first piece of `first`; the last one is what is left."""
    sizes = [first] if first else []
    while sum(sizes) < length:
        sizes.append(min(group, length - sum(sizes)))
    return sizes


def attend_in_pieces(q, k, v, sizes):
    pieces = zip(*(x.split(sizes, dim=1) for x in (q, k, v)))
    return torch.cat([causal_attention(*piece) for piece in pieces], dim=1)


def unshifted(q, k, v, group):
    return attend_in_pieces(q, k, v, cut(q.shape[1], 0, group))


def shifted_truncate(q, k, v, group):
    return attend_in_pieces(q, k, v, cut(q.shape[1], group // 2, group))


def shifted_wrap(q, k, v, group):
    """The original: roll the ring of tokens by half a group, fold the groups into the batch, attend, roll back."""
    heads, length, dim = q.shape
    half = group // 2
    folded = (x.roll(-half, dims=1).reshape(heads, length // group, group, dim) for x in (q, k, v))
    return causal_attention(*folded).reshape(heads, length, dim).roll(half, dims=1)


def unshifted_heads(pattern, heads):
    return {"s2": heads // 2, "local": heads, "shifted": 0}[pattern]


def attention(q, k, v, case):
    if case.pattern == "full":
        return causal_attention(q, k, v)
    shifted = shifted_wrap if case.boundary == "wrap" else shifted_truncate
    first = unshifted_heads(case.pattern, q.shape[0])
    return torch.cat([unshifted(q[:first], k[:first], v[:first], case.group),
                      shifted(q[first:], k[first:], v[first:], case.group)])


# ---- LLaMA


def rope_parameters(case, config):
    """theta and the factor that positions are divided by; the command line beats config.json."""
    parameters = config.get("rope_parameters") or {}
    scaling = config.get("rope_scaling") or parameters
    theta = parameters.get("rope_theta") or config["rope_theta"]
    return theta, case.option_factor or scaling.get("factor", 1.0)


def rotate(x, theta, factor):
    """x (heads, tokens, head_dim); feature i turns with feature i + head_dim / 2, as in Hugging Face's layout."""
    half = x.shape[-1] // 2
    frequency = theta ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.arange(x.shape[1], dtype=torch.float64)[:, None] / factor * frequency
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], dim=-1)


class Llama:
    """One row at a time. `weights` maps the names of model.safetensors and adapter_model.safetensors to tensors."""

    def __init__(self, case, config, weights):
        self.case, self.config, self.weights = case, config, weights
        self.head_dim = cases.head_dim(config)
        self.theta, self.factor = rope_parameters(case, config)

    def linear(self, x, name):
        y = x @ self.weights[name + ".weight"].T
        adapter = cases.adapter_name(name)
        if adapter + ".lora_A.weight" in self.weights:
            a, b = self.weights[adapter + ".lora_A.weight"], self.weights[adapter + ".lora_B.weight"]
            y = y + self.case.alpha / self.case.rank * (x @ a.T @ b.T)
        return y

    def norm(self, x, name):
        return self.weights[name] * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.config["rms_norm_eps"])

    def heads(self, x, name):
        return self.linear(x, name).reshape(x.shape[0], -1, self.head_dim).transpose(0, 1)

    def self_attention(self, x, name):
        q = rotate(self.heads(x, name + "q_proj"), self.theta, self.factor)
        k = rotate(self.heads(x, name + "k_proj"), self.theta, self.factor)
        v = self.heads(x, name + "v_proj")
        repeats = q.shape[0] // k.shape[0]
        k, v = k.repeat_interleave(repeats, dim=0), v.repeat_interleave(repeats, dim=0)
        out = attention(q, k, v, self.case)
        return self.linear(out.transpose(0, 1).reshape(x.shape[0], -1), name + "o_proj")

    def mlp(self, x, name):
        gate, up = self.linear(x, name + "gate_proj"), self.linear(x, name + "up_proj")
        return self.linear(torch.nn.functional.silu(gate) * up, name + "down_proj")

    def hidden(self, tokens):
        x = self.weights["model.embed_tokens.weight"][tokens]
        for layer in range(self.config["num_hidden_layers"]):
            name = f"model.layers.{layer}."
            x = x + self.self_attention(self.norm(x, name + "input_layernorm.weight"), name + "self_attn.")
            x = x + self.mlp(self.norm(x, name + "post_attention_layernorm.weight"), name + "mlp.")
        return self.norm(x, "model.norm.weight")

    def logits(self, tokens):
        tied = self.config["tie_word_embeddings"]
        return self.hidden(tokens) @ self.weights["model.embed_tokens.weight" if tied else "lm_head.weight"].T

    def loss(self, rows):
        """Mean over all labels of all rows."""
        logits = torch.cat([self.logits(row[:-1]) for row in rows])
        return torch.nn.functional.cross_entropy(logits, torch.cat([row[1:] for row in rows]))


# ---- what is trained


def all_weights(inputs):
    """Base and LoRA, with the adapter's own embeddings and norms in the place of the base's."""
    weights = dict(inputs.base)
    prefix = cases.adapter_name("")
    for name, tensor in inputs.adapter.items():
        weights[name if ".lora_" in name else name[len(prefix):]] = tensor
    if inputs.config["tie_word_embeddings"]:
        weights.pop("lm_head.weight", None)
    return {name: torch.tensor(tensor, dtype=torch.float64) for name, tensor in weights.items()}


def is_trained(name, mode):
    if mode == "full" or ".lora_" in name:
        return True
    return mode == "lora_plus" and (name == "model.embed_tokens.weight" or name.endswith("norm.weight"))


def load(case, inputs):
    """The model, its trainables and the rows."""
    weights = all_weights(inputs)
    trained = {name: weight.requires_grad_() for name, weight in weights.items() if is_trained(name, case.mode)}
    return Llama(case, inputs.config, weights), trained, torch.tensor(inputs.tokens, dtype=torch.int64)


def loss_and_gradients(case, inputs):
    model, trained, rows = load(case, inputs)
    loss = model.loss(rows)
    loss.backward()
    return loss.item(), {name: weight.grad for name, weight in trained.items()}


def clip(gradients, limit):
    norm = math.sqrt(sum(gradient.square().sum().item() for gradient in gradients))
    for gradient in gradients:
        gradient.mul_(min(1.0, limit / (norm + 1e-6)))


def train(case, inputs):
    """The trainables after cases.ADAMW's steps, every step on all rows."""
    model, trained, rows = load(case, inputs)
    matrices = [weight for weight in trained.values() if weight.dim() == 2]
    vectors = [weight for weight in trained.values() if weight.dim() < 2]
    groups = [{"params": matrices, "weight_decay": cases.ADAMW["weight_decay"]},
              {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), eps=1e-8)
    for step in range(1, cases.ADAMW["steps"] + 1):
        optimizer.zero_grad()
        model.loss(rows).backward()
        clip([weight.grad for weight in trained.values()], cases.ADAMW["clip_norm"])
        for group in optimizer.param_groups:
            group["lr"] = cases.ADAMW["learning_rate"] * min(1.0, step / cases.ADAMW["warmup_steps"])
        optimizer.step()
    return {name: weight.detach() for name, weight in trained.items()}


# ---- expected files


def compute(case):
    inputs = cases.build(case)
    loss, gradients = loss_and_gradients(case, inputs)
    expected = {"loss": np.float64(loss), "inputs": np.array(cases.digest(case, inputs))}
    expected.update({f"gradients/{name}": gradient.numpy() for name, gradient in gradients.items()})
    if case.adamw:
        expected.update({f"adamw/{name}": weight.numpy() for name, weight in train(case, inputs).items()})
    return expected


def store(case):
    expected = {name: np.float32(value) if "/" in name else value for name, value in compute(case).items()}
    cases.EXPECTED.mkdir(exist_ok=True)
    np.savez_compressed(cases.expected_path(case), **expected)
    print(f"{case.name:26} loss {expected['loss']:.6f}")
    return True


def difference(a, b):
    return np.linalg.norm(np.float64(a) - b) / np.linalg.norm(b) if a.shape == b.shape else math.inf


def verify(case):
    computed = compute(case)
    with np.load(cases.expected_path(case)) as stored:
        same = set(stored.files) == set(computed) and str(stored["inputs"]) == str(computed["inputs"])
        numbers = [name for name in computed if name != "inputs"]
        worst = max(difference(stored[name], computed[name]) for name in numbers) if same else math.inf
    print(f"{case.name:26} {worst:.1e} {'ok' if worst <= VERIFY_LIMIT else 'FAILED'}")
    return worst <= VERIFY_LIMIT


# ---- self-test


def masked_attention(q, k, v, case):
    """The definition on absolute positions, one pair of tokens at a time."""
    heads, length, dim = q.shape
    group, half = case.group, case.group // 2
    first = heads if case.pattern == "full" else unshifted_heads(case.pattern, heads)
    mask = torch.zeros(heads, length, length, dtype=torch.bool)
    for head in range(heads):
        shift = 0 if head < first else half
        for p in range(length):
            for j in range(length):
                same = case.pattern == "full" or (p + shift) // group == (j + shift) // group
                leak = case.boundary == "wrap" and shift > 0 and p < half and j >= length - half
                mask[head, p, j] = (same and j <= p) or leak
    scores = (q @ k.transpose(-1, -2) / math.sqrt(dim)).masked_fill(~mask, -math.inf)
    return torch.softmax(scores, dim=-1) @ v


def self_test():
    shapes = [(3, 24, 8), (4, 20, 8), (5, 16, 16), (1, 18, 12), (2, 32, 8)]  # heads, tokens, group
    worst = 0.0
    for heads, tokens, group in shapes:
        for pattern in ("s2", "local", "shifted", "full"):
            for boundary in ("truncate", "wrap") if tokens % group == 0 else ("truncate",):
                case = cases.Case("self_test", tokens=tokens, group=group, pattern=pattern, boundary=boundary)
                q, k, v = (torch.tensor(cases.normal(name, (heads, tokens, 6))) for name in "qkv")
                error = (attention(q, k, v, case) - masked_attention(q, k, v, case)).abs().max().item()
                worst = max(worst, error)
    print(f"roll and cut against the mask: largest difference {worst:.1e}")
    return worst < 1e-13


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verify", action="store_true", help="compare with the stored files, write nothing")
    parser.add_argument("--self-test", action="store_true", help="check the oracle's own attention")
    parser.add_argument("case", nargs="*", help="names or shell patterns; all by default")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.self_test:
        return 0 if self_test() else 1
    passed = True
    for case in cases.select(arguments.case):
        if cases.missing_model(case):
            print(f"{case.name:26} skipped: {cases.missing_model(case)}")
        else:
            passed &= (verify if arguments.verify else store)(case)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
