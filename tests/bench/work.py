"""Work and traffic of a step by formula (mathematics.md, sections 1, 2 and 4), counted apart from the program."""

from dataclasses import dataclass

FLOAT = 4


@dataclass(frozen=True)
class Model:
    layers: int
    width: int
    heads: int
    kv_heads: int
    mlp_width: int
    vocabulary: int
    is_tied: bool = False

    @property
    def head_dim(self):
        return self.width // self.heads

    @property
    def kv_width(self):
        return self.kv_heads * self.head_dim

    def options(self):
        """Random weights of these sizes."""
        return {"model.layers": self.layers, "model.width": self.width, "model.heads": self.heads,
                "model.kv_heads": self.kv_heads, "model.mlp_width": self.mlp_width,
                "model.vocabulary": self.vocabulary, "model.tied": str(self.is_tied).lower()}


BENCHMARK = Model(layers=12, width=768, heads=12, kv_heads=12, mlp_width=2048, vocabulary=32000)
STORIES260K = Model(layers=5, width=64, heads=8, kv_heads=4, mlp_width=172, vocabulary=512, is_tied=True)


@dataclass(frozen=True)
class Schedule:
    """How a row is trained: N, G (None: full attention), sequence ranks, chunks, activation policy."""
    length: int
    group: int | None
    ranks: int = 1
    chunks: int = 1
    policy: str = "keep"


POLICIES = ("keep", "recompute_mlp", "recompute_layer")  # as planned_activations of log.h5 counts them


# ---- FLOP of one row


def visible_pairs(model, schedule):
    """Over all query heads of a layer."""
    N, G, H = schedule.length, schedule.group, model.heads
    if G is None:
        return H * N * (N + 1) / 2
    shifted = H - H // 2
    return H * N * (G + 1) / 2 - shifted * G * G / 4


def layer_linear(model):
    """Forward, a token: q, k, v, o, gate, up, down."""
    return 2 * (2 * model.width**2 + 2 * model.width * model.kv_width + 3 * model.width * model.mlp_width)


def useful_flop(model, schedule):
    """Linear layers and head forward and input gradient, the head's own gradient where it is tied and so trained,
    attention's visible pairs (4 D forward, 10 D backward). LoRA's thin products are left out: they are not the work
    of the model (0.6 % of the benchmark model's; the program's flops_per_second has them)."""
    N = schedule.length
    head = 2 * model.width * model.vocabulary
    tokens = 2 * model.layers * layer_linear(model) + (3 if model.is_tied else 2) * head
    return N * tokens + 14 * model.head_dim * model.layers * visible_pairs(model, schedule)


def executed_flop(model, schedule):
    """With what is computed again: the first pass of all chunks but the last (no head, and of the last layer K/V only),
    and what the policy does not keep."""
    N, C = schedule.length, schedule.chunks
    attention = 4 * model.head_dim * visible_pairs(model, schedule)
    forward = N * layer_linear(model) + attention
    keys_values = N * 4 * model.width * model.kv_width
    first_pass = (C - 1) / C * ((model.layers - 1) * forward + keys_values)
    again = {"keep": 0, "recompute_mlp": N * 4 * model.width * model.mlp_width, "recompute_layer": forward}
    return useful_flop(model, schedule) + first_pass + model.layers * again[schedule.policy]


# ---- bytes sent in a step of one row, all ranks together


def travelling_heads(model):
    """K/V heads of the shifted query heads: those that straddle a border at a multiple of G."""
    return model.kv_heads - (model.heads // 2) // (model.heads // model.kv_heads)


def halo_bytes(model, schedule):
    """Shards must be multiples of G."""
    L, C, P = model.layers, schedule.chunks, schedule.ranks
    border = 2 * (schedule.group // 2) * travelling_heads(model) * model.head_dim
    return FLOAT * border * (P - 1) * (2 * C * L + (C - 1) * (L - 1))


def full_attention_bytes(model, schedule):
    """What this program sends for full attention: each shard's K/V to every later shard on another rank, in each pass,
    and dK/dV back."""
    L, C, P, T = model.layers, schedule.chunks, schedule.ranks, schedule.length // (schedule.ranks * schedule.chunks)
    exchanges = 0
    for consumer in range(C * P):
        rank = (consumer % P - consumer // P) % P
        senders = sum((owner % P - owner // P) % P != rank for owner in range(consumer))
        is_last = consumer // P == C - 1
        exchanges += senders * (2 * L + (0 if is_last else L - 1))
    return FLOAT * 2 * T * model.kv_width * exchanges


def ulysses_bytes(model, schedule):
    """Four all-to-alls forward (q, k, v, output) and their transposes, nothing streamed, nothing recomputed."""
    P = schedule.ranks
    a_rank = (4 + 4 * model.kv_heads / model.heads) * schedule.length * model.width / P * (P - 1) / P
    return FLOAT * model.layers * P * a_rank


def ring_bytes(model, schedule):
    """K and V go once around forward, K, V, dK and dV backward."""
    P = schedule.ranks
    return FLOAT * model.layers * 6 * schedule.length * model.kv_width * (P - 1)
