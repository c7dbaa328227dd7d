"""PyTorch's scaled_dot_product_attention on rolled and grouped tensors, forward and backward, shift copies included.

    torch_attention.py --cases 32768:8192:32:32,32768:2048:32:8        tokens:group:heads:kv_heads
    torch_attention.py --device cpu --tiny                             does it work

All of PyTorch's backends that take the case, both ways to roll (torch_s2.py), K/V heads shared or repeated: each is tried
a few times, the fastest forward and the fastest backward are then measured (median; events on a GPU). bfloat16. FLOP are
those of visible pairs: 4 D a pair forward, 10 D backward.
"""

import argparse
import itertools
import statistics
import sys
import time

try:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    import torch_s2
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION,
            "efficient": SDPBackend.EFFICIENT_ATTENTION, "math": SDPBackend.MATH}


class Clock:
    def __init__(self, device):
        self.is_gpu = device == "cuda"

    def times(self, work, runs):
        """Seconds of each run."""
        if not self.is_gpu:
            begins = [time.perf_counter()]
            for _ in range(runs):
                work()
                begins.append(time.perf_counter())
            return [after - before for before, after in itertools.pairwise(begins)]
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(runs)]
        for begin, end in events:
            begin.record()
            work()
            end.record()
        torch.cuda.synchronize()
        return [begin.elapsed_time(end) / 1e3 for begin, end in events]

    def median(self, work, seconds):
        once = max(min(self.times(work, 2)), 1e-6)
        self.times(work, min(20, max(1, int(0.2 * seconds / once))))
        return statistics.median(self.times(work, min(100, max(3, int(0.8 * seconds / once)))))


class Case:
    def __init__(self, sizes, options):
        self.tokens, self.group, self.heads, self.kv_heads = sizes
        self.head_dim, self.device = options.head_dim, options.device
        self.clock, self.seconds = Clock(options.device), options.seconds
        torch.manual_seed(1)
        self.q = self.random(self.heads)
        self.k, self.v = self.random(self.kv_heads), self.random(self.kv_heads)
        self.d_out = self.random(self.heads, is_leaf=False)

    def random(self, heads, is_leaf=True):
        return torch.randn(1, self.tokens, heads, self.head_dim, device=self.device, dtype=torch.bfloat16,
                           requires_grad=is_leaf)

    def flop(self, backward):
        pairs = torch_s2.visible_pairs(self.tokens, self.group, self.heads)
        return (10 if backward else 4) * self.head_dim * pairs

    def variants(self):
        repeats = (False, True) if self.kv_heads < self.heads else (False,)
        return itertools.product(BACKENDS if self.device == "cuda" else ("flash", "math"), torch_s2.WAYS, repeats)

    def forward(self, variant):
        backend, way, is_repeated = variant
        with sdpa_kernel(BACKENDS[backend]):
            return torch_s2.WAYS[way](self.q, self.k, self.v, self.group, is_repeated)

    def passes(self, variant):
        """Two functions: forward as in training, and backward of one forward again and again."""
        out = self.forward(variant)
        backward = lambda: torch.autograd.grad(out, (self.q, self.k, self.v), self.d_out, retain_graph=True)  # noqa: E731
        return (lambda: self.forward(variant)), backward

    def tried(self):
        """(variant, seconds forward, seconds backward) of all that PyTorch can do."""
        found = []
        for variant in self.variants():
            if variant[0] == "math" and found:
                continue  # all scores at once: slow, and too large for long groups
            try:
                forward, backward = self.passes(variant)
                forward(), backward()
                found.append((variant, min(self.clock.times(forward, 3)), min(self.clock.times(backward, 3))))
            except (RuntimeError, torch.OutOfMemoryError) as error:
                print(f"# {name_of(variant)}: {str(error).splitlines()[0][:120]}", flush=True)
        if not found:
            raise SystemExit("no backend of PyTorch takes this case")
        return found

    def measure(self):
        found = self.tried()
        for index, name in ((1, "forward"), (2, "backward")):
            variant = min(found, key=lambda one: one[index])[0]
            work = self.passes(variant)[index - 1]
            seconds = self.clock.median(work, self.seconds)
            print(f"name={name} tokens={self.tokens} group={self.group} heads={self.heads} kv_heads={self.kv_heads} "
                  f"flop={self.flop(index == 2)} seconds={seconds} variant={name_of(variant)}", flush=True)


def name_of(variant):
    backend, way, is_repeated = variant
    return f"{backend}-{way}" + ("-repeated" if is_repeated else "")


def cases(text):
    return [tuple(map(int, word.split(":"))) for word in text.split(",")]


def arguments():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--cases", type=cases, default=cases("32768:8192:32:32"))
    options.add_argument("--head-dim", type=int, default=128)
    options.add_argument("--seconds", type=float, default=1.0, help="of one measurement")
    options.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    options.add_argument("--tiny", action="store_true")
    found = options.parse_args()
    if found.tiny:
        found.cases, found.head_dim, found.seconds = cases("128:32:4:4,128:32:4:2"), 16, 0.05
    return found


def main():
    options = arguments()
    print(f"device={torch.cuda.get_device_name().replace(' ', '_') if options.device == 'cuda' else 'cpu'} "
          f"torch={torch.__version__}", flush=True)
    for sizes in options.cases:
        Case(sizes, options).measure()
        if options.device == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
