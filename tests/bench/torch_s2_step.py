"""A training step in transformers + PEFT with S2-Attn and gradient checkpointing, beside gpu_check.py's own step.

    torch_s2_step.py                              Llama-2 7B's sizes, random weights made on the GPU, 32,768 tokens, G 8,192
    torch_s2_step.py --device cpu --tiny          does it work

bfloat16, LoRA's factors in float under autocast, as Trainer(bf16=True) has it; LoRA on q, k, v, o, trainable embeddings and
norms, everything else frozen; groups by rolling, as in the paper's code (torch_s2.py), scaled_dot_product_attention in them;
clipping, fused AdamW. Prints a line a step.
"""

import argparse
import math
import sys
import time

try:
    import peft
    import torch
    import transformers
    from torch import nn

    import torch_s2
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

RANK, ALPHA = 8, 16


def attention_of(options):
    """What transformers calls: (1, heads, tokens, head_dim) in, (1, tokens, heads, head_dim) out."""
    way = torch_s2.WAYS[options.way]

    def attend(module, query, key, value, attention_mask, **_):
        return way(*(x.transpose(1, 2) for x in (query, key, value)), options.group, options.repeated), None

    return attend


def build(options):
    # No mask function under this name: transformers then makes no mask, as for other attentions without one.
    transformers.AttentionInterface.register("s2", attention_of(options))
    config = transformers.LlamaConfig(
        vocab_size=options.vocabulary, hidden_size=options.width, intermediate_size=options.mlp_width,
        num_hidden_layers=options.layers, num_attention_heads=options.heads, num_key_value_heads=options.kv_heads,
        max_position_embeddings=options.length, tie_word_embeddings=False, use_cache=False)
    with torch.device(options.device):
        base = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="s2", dtype=torch.bfloat16)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
    model = peft.get_peft_model(base, peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets))
    for name, parameter in model.named_parameters():
        if "embed" in name or "norm" in name:  # LongLoRA's "+"
            parameter.requires_grad_()
    if options.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model.train()


class Step:
    def __init__(self, options):
        torch.manual_seed(1)
        self.options = options
        self.model = build(options)
        self.trainable = [p for p in self.model.parameters() if p.requires_grad]
        self.check()
        self.optimizer = torch.optim.AdamW(self.trainable, lr=2e-5, betas=(0.9, 0.95), weight_decay=0, fused=True)
        row = torch.randint(options.vocabulary, (1, options.length + 1), device=options.device)
        self.tokens, self.labels = row[:, :-1].contiguous(), row[:, 1:].contiguous()

    def check(self):
        o = self.options
        kv_width = o.width // o.heads * o.kv_heads
        low_rank = RANK * (2 * (o.width + o.width) + 2 * (o.width + kv_width))
        expected = o.layers * (low_rank + 2 * o.width) + (o.vocabulary + 1) * o.width
        count = sum(p.numel() for p in self.trainable)
        if count != expected:
            raise SystemExit(f"{count} trainable parameters, not {expected}")

    def synchronize(self):
        if self.options.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def run(self):
        begin = self.synchronize()
        with torch.autocast(self.options.device, torch.bfloat16, enabled=self.options.autocast):
            loss = self.model(input_ids=self.tokens, labels=self.labels, shift_labels=self.labels).loss
        forward = self.synchronize()
        loss.backward()
        backward = self.synchronize()
        nn.utils.clip_grad_norm_(self.trainable, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        end = self.synchronize()
        if abs(loss.item() - math.log(self.options.vocabulary)) > 1:
            raise SystemExit(f"the loss of random weights is {loss.item()}, not about {math.log(self.options.vocabulary)}")
        peak = torch.cuda.max_memory_allocated() if self.options.device == "cuda" else 0
        reserved = torch.cuda.max_memory_reserved() if self.options.device == "cuda" else 0
        print(f"name=step seconds={end - begin:.4f} forward={forward - begin:.4f} backward={backward - forward:.4f} "
              f"update={end - backward:.4f} loss={loss.item():.4f} peak_bytes={peak} reserved_bytes={reserved}", flush=True)


def arguments():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("layers", 32), ("width", 4096), ("heads", 32), ("kv-heads", 32), ("mlp-width", 11008),
                        ("vocabulary", 32000), ("length", 32768), ("group", 8192), ("steps", 4)):
        options.add_argument(f"--{name}", type=int, default=value)
    options.add_argument("--way", default="rolled", choices=torch_s2.WAYS)
    options.add_argument("--repeated", action="store_true", help="repeat K/V heads instead of sharing them")
    options.add_argument("--no-checkpointing", dest="checkpointing", action="store_false")
    options.add_argument("--no-autocast", dest="autocast", action="store_false")
    options.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    options.add_argument("--tiny", action="store_true")
    found = options.parse_args()
    if found.tiny:
        found.layers, found.width, found.heads, found.kv_heads, found.mlp_width = 2, 64, 4, 2, 96
        found.vocabulary, found.length, found.group, found.steps = 128, 256, 64, 2
    return found


def main():
    options = arguments()
    print(f"torch={torch.__version__} transformers={transformers.__version__} peft={peft.__version__}", flush=True)
    begin = time.perf_counter()
    step = Step(options)
    print(f"name=start seconds={time.perf_counter() - begin:.2f}", flush=True)
    for _ in range(options.steps):
        step.run()


if __name__ == "__main__":
    main()
