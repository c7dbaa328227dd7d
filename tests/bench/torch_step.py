"""The benchmark's step in PyTorch, to be measured beside the program's (step.py --torch).

    torch_step.py VARIANT [--steps 2]        alone
    torch_step.py --self-test                rolled groups against a mask made pair by pair

VARIANT: plain (modules written for this, all logits at once as training loops have them), peft (transformers' LLaMA +
PEFT as people have them), either with -checkpointing; plain-tiled: logits of 512 tokens at a time, written by hand.
All have LoRA on q, k, v, o, trainable embeddings and norms, everything else frozen, S2-Attn by rolling and grouping as
in the paper's code (its wrap-around included), scaled_dot_product_attention, clipping and AdamW.
"""

import argparse
import math
import resource
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import work

RANK, ALPHA, THETA, EPSILON = 8, 16, 1e4, 1e-5
HEAD_ROWS = 512  # tokens whose logits exist at once in the tiled variant
VARIANTS = ("plain", "plain-tiled", "plain-checkpointing", "peft", "peft-checkpointing")


# ---- S2-Attn; q, k, v: (batch, heads, tokens, head_dim)


def shift(x, by):
    """Rolls the tokens of the second half of the heads."""
    first, second = x.chunk(2, dim=1)
    return torch.cat((first, second.roll(by, dims=2)), dim=1)


def s2_attention(q, k, v, group):
    batch, heads, tokens, dim = q.shape

    def fold(x):
        groups = shift(x, -(group // 2)).reshape(batch, heads, tokens // group, group, dim)
        return groups.transpose(1, 2).reshape(-1, heads, group, dim)

    out = F.scaled_dot_product_attention(fold(q), fold(k), fold(v), is_causal=True)
    out = out.reshape(batch, tokens // group, heads, group, dim).transpose(1, 2)
    return shift(out.reshape(batch, heads, tokens, dim), group // 2)


# ---- plain modules


class LoraLinear(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(0.02 * torch.randn(outputs, inputs), requires_grad=False)
        self.lora_a = nn.Parameter(torch.empty(RANK, inputs))
        self.lora_b = nn.Parameter(torch.zeros(outputs, RANK))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def forward(self, x):
        return F.linear(x, self.weight) + ALPHA / RANK * F.linear(F.linear(x, self.lora_a), self.lora_b)


def frozen_linear(inputs, outputs):
    linear = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(linear.weight, std=0.02)
    linear.weight.requires_grad_(False)
    return linear


def rotate(x, cosine, sine):
    a, b = x.chunk(2, dim=-1)
    return x * cosine + torch.cat((-b, a), dim=-1) * sine


class Block(nn.Module):
    def __init__(self, model, group):
        super().__init__()
        E, self.heads, self.group = model.width, model.heads, group
        self.q, self.k, self.v, self.o = (LoraLinear(E, E) for _ in range(4))
        self.gate, self.up = frozen_linear(E, model.mlp_width), frozen_linear(E, model.mlp_width)
        self.down = frozen_linear(model.mlp_width, E)
        self.norm1, self.norm2 = nn.RMSNorm(E, EPSILON), nn.RMSNorm(E, EPSILON)

    def forward(self, x, cosine, sine):
        h = self.norm1(x)
        q, k, v = (f(h).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        out = s2_attention(rotate(q, cosine, sine), rotate(k, cosine, sine), v, self.group)
        x = x + self.o(out.transpose(1, 2).flatten(2))
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Plain(nn.Module):
    def __init__(self, model, group, length, way):
        super().__init__()
        self.is_checkpointed, self.is_tiled = way == "checkpointing", way == "tiled"
        self.embedding = nn.Embedding(model.vocabulary, model.width)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.blocks = nn.ModuleList(Block(model, group) for _ in range(model.layers))
        self.norm = nn.RMSNorm(model.width, EPSILON)
        self.head = frozen_linear(model.width, model.vocabulary)
        frequency = THETA ** (-torch.arange(0, model.head_dim, 2) / model.head_dim)
        angle = torch.outer(torch.arange(length), frequency).repeat(1, 2)
        self.rotary = (angle.cos(), angle.sin())

    def forward(self, tokens):
        x = self.embedding(tokens)
        for block in self.blocks:
            if self.is_checkpointed:
                x = checkpoint(block, x, *self.rotary, use_reentrant=False)
            else:
                x = block(x, *self.rotary)
        return self.norm(x)

    def accumulate(self, tokens, labels):
        """Loss and gradients."""
        last = self(tokens)
        if self.is_tiled:
            return self.accumulate_by_tiles(last, labels)
        loss = F.cross_entropy(self.head(last[0]), labels[0])
        loss.backward()
        return loss.item()

    def accumulate_by_tiles(self, last, labels):
        """The head tile by tile, each forward and backward at once: less memory."""
        leaf = last.detach().requires_grad_()
        loss = 0.0
        for h, label in zip(leaf[0].split(HEAD_ROWS), labels[0].split(HEAD_ROWS)):
            part = F.cross_entropy(self.head(h), label, reduction="sum") / labels.numel()
            part.backward()
            loss += part.item()
        last.backward(leaf.grad)
        return loss


# ---- transformers + PEFT


class Peft(nn.Module):
    def __init__(self, model, group, length, way):
        super().__init__()
        import peft
        import transformers

        def attend(module, query, key, value, attention_mask, **_):
            return s2_attention(query, key, value, group).transpose(1, 2), None

        # No mask function under this name: transformers then makes no mask, as for other attentions without one.
        transformers.AttentionInterface.register("s2", attend)
        config = transformers.LlamaConfig(
            vocab_size=model.vocabulary, hidden_size=model.width, intermediate_size=model.mlp_width,
            num_hidden_layers=model.layers, num_attention_heads=model.heads, num_key_value_heads=model.heads,
            max_position_embeddings=length, tie_word_embeddings=False, use_cache=False, rms_norm_eps=EPSILON)
        base = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="s2")
        targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
        self.model = peft.get_peft_model(base, peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets))
        for name, parameter in self.model.named_parameters():
            if "embed" in name or "norm" in name:  # LongLoRA's "+"
                parameter.requires_grad_()
        if way == "checkpointing":
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.model.train()

    def accumulate(self, tokens, labels):
        loss = self.model(input_ids=tokens, labels=labels, shift_labels=labels).loss
        loss.backward()
        return loss.item()


# ---- measuring


class Step:
    def __init__(self, variant, model, length, group):
        torch.manual_seed(1)
        kind, _, rest = variant.partition("-")
        self.network = (Plain if kind == "plain" else Peft)(model, group, length, rest)
        self.trainable = [p for p in self.network.parameters() if p.requires_grad]
        self.check(model)
        self.optimizer = torch.optim.AdamW(self.trainable, lr=2e-5, betas=(0.9, 0.95), weight_decay=0, fused=True)
        row = torch.randint(model.vocabulary, (1, length + 1))
        self.tokens, self.labels = row[:, :-1].contiguous(), row[:, 1:].contiguous()
        self.expected_loss = math.log(model.vocabulary)

    def check(self, model):
        count = sum(p.numel() for p in self.trainable)
        expected = model.layers * (4 * 2 * RANK + 2) * model.width + (model.vocabulary + 1) * model.width
        if count != expected:
            sys.exit(f"{count} trainable parameters, not {expected}")

    def run(self):
        begin = time.perf_counter()
        loss = self.network.accumulate(self.tokens, self.labels)
        nn.utils.clip_grad_norm_(self.trainable, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        seconds = time.perf_counter() - begin
        if abs(loss - self.expected_loss) > 0.5:
            sys.exit(f"the loss of random weights is {loss}, not about {self.expected_loss}")
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(f"seconds={seconds} loss={loss} peak_bytes={peak}", flush=True)


def self_test():
    """A head sees what its group holds, up to itself; groups of the second half of the heads begin half a group later,
    the last of them goes on at the beginning."""
    torch.manual_seed(1)
    heads, tokens, group = 4, 48, 16
    q, k, v = torch.randn(3, 1, heads, tokens, 8, dtype=torch.float64)
    position = torch.arange(tokens)
    for head, by in ((0, 0), (1, 0), (2, group // 2), (3, group // 2)):
        place = (position - by) % tokens  # in the rolled sequence
        visible = (place[:, None] // group == place // group) & (place <= place[:, None])
        scores = (q[0, head] @ k[0, head].T / math.sqrt(8)).masked_fill(~visible, -math.inf)
        expected = torch.softmax(scores, dim=-1) @ v[0, head]
        error = (s2_attention(q, k, v, group)[0, head] - expected).abs().max().item()
        if error > 1e-12:
            sys.exit(f"head {head} is off by {error}")
    print("rolled groups are right")


def arguments():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("variant", nargs="?", choices=VARIANTS)
    options.add_argument("--length", type=int, default=8192)
    options.add_argument("--group", type=int, default=2048)
    options.add_argument("--layers", type=int, default=work.BENCHMARK.layers)
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    options.add_argument("--steps", type=int, default=2)
    options.add_argument("--self-test", action="store_true")
    return options.parse_args()


def main():
    options = arguments()
    torch.set_num_threads(options.threads)
    if options.self_test:
        return self_test()
    model = work.Model(**{**vars(work.BENCHMARK), "layers": options.layers})
    step = Step(options.variant, model, options.length, options.group)
    for _ in range(options.steps):
        step.run()


if __name__ == "__main__":
    main()
