"""S2-Attn in PyTorch by rolling and grouping, for torch_attention.py and torch_s2_step.py.  torch_s2.py: tests itself.

q: (1, tokens, heads, head_dim); k, v: (1, tokens, kv_heads, head_dim). The second half of the query heads is shifted by
half a group, as in the paper's code, whose last shifted group goes on at the beginning.
"""

import math

import torch
import torch.nn.functional as F


def fold(x, group):
    """(1, T, heads, D) as (T / G, heads, G, D), without a copy."""
    return x.reshape(-1, group, *x.shape[2:]).transpose(1, 2)


def unfold(x):
    return x.transpose(1, 2).reshape(1, -1, x.shape[1], x.shape[3])


def sdpa(q, k, v, group, is_repeated=False):
    """Causal attention inside groups; K/V heads are shared by PyTorch, or repeated first."""
    times = q.shape[2] // k.shape[2]
    if times > 1 and is_repeated:
        k, v = k.repeat_interleave(times, dim=2), v.repeat_interleave(times, dim=2)
    sharing = {"enable_gqa": True} if q.shape[2] != k.shape[2] else {}
    q, k, v = fold(q, group), fold(k, group), fold(v, group)
    return unfold(F.scaled_dot_product_attention(q, k, v, is_causal=True, **sharing))


def shift(x, by):
    """Rolls the tokens of the second half of the heads."""
    first, second = x.chunk(2, dim=2)
    return torch.cat((first, second.roll(by, dims=1)), dim=2)


def rolled(q, k, v, group, is_repeated=False):
    """The paper's way: one call, and a copy of everything before and after it."""
    q, k, v = (shift(x, -(group // 2)) for x in (q, k, v))
    return shift(sdpa(q, k, v, group, is_repeated), group // 2)


def halves(q, k, v, group, is_repeated=False):
    """Each half of the heads by a call of its own: half of the copies before."""
    parts = [x.chunk(2, dim=2) for x in (q, k, v)]
    first = sdpa(*(part[0] for part in parts), group, is_repeated)
    second = sdpa(*(part[1].roll(-(group // 2), dims=1) for part in parts), group, is_repeated)
    return torch.cat((first, second.roll(group // 2, dims=1)), dim=2)


WAYS = {"rolled": rolled, "halves": halves}


def visible_pairs(tokens, group, heads):
    """Of these functions: no group is cut at the ends."""
    return heads * tokens * (group + 1) / 2


def self_test():
    """A head sees what its group holds, up to itself; groups of the second half of the heads begin half a group later."""
    torch.manual_seed(1)
    heads, kv_heads, tokens, group, dim = 4, 2, 48, 16, 8
    q = torch.randn(1, tokens, heads, dim, dtype=torch.float64)
    k, v = torch.randn(2, 1, tokens, kv_heads, dim, dtype=torch.float64)
    position = torch.arange(tokens)
    for name, way in WAYS.items():
        for is_repeated in (False, True):
            out = way(q, k, v, group, is_repeated)
            for head in range(heads):
                place = (position - (group // 2 if head >= heads // 2 else 0)) % tokens  # in the rolled sequence
                visible = (place[:, None] // group == place // group) & (place <= place[:, None])
                kv = head * kv_heads // heads
                scores = (q[0, :, head] @ k[0, :, kv].T / math.sqrt(dim)).masked_fill(~visible, -math.inf)
                error = (out[0, :, head] - torch.softmax(scores, dim=-1) @ v[0, :, kv]).abs().max().item()
                if error > 1e-12:
                    raise SystemExit(f"{name}: head {head} is off by {error}")
    print("rolled groups are right")


if __name__ == "__main__":
    self_test()
