"""The same loss and gradients on every layout: ranks, chunks and activation policies against one rank, one chunk, keep.

Each trainable's gradient is compared norm-wise. LoRA's B is not zero (as it would be at a run's start), so that dA
is not either. The oracle's tests say that the reference itself is right.
"""

from collections import namedtuple

import program
from program import ProgramTest

import cases  # of tests/oracle, which program puts on the path

LOSS_LIMIT = 1e-6
GRADIENT_LIMIT = 1e-5


def physics(name, **settings):
    return cases.Case(name, **{"tokens": 192, "group": 48, "rows": 2, **settings})


# N = 192 divides by 3 and by 64, N = 96 by 3 and by 32.
PHYSICS = {case.name: case for case in (
    physics("s2", layers=3),
    physics("small_groups", group=16, kv_heads=2),
    physics("odd_heads", width=72, heads=9, kv_heads=3, head_dim=8, group=32),
    physics("long_group", group=128, kv_heads=2, rows=1),
    physics("one_group", group=384, kv_heads=1),
    physics("half_group_left", group=128, tokens=192, kv_heads=4, tied=True),
    physics("local", pattern="local"),
    physics("shifted", pattern="shifted", kv_heads=2),
    physics("wrap", boundary="wrap", kv_heads=2),
    physics("wrap_long_group", boundary="wrap", group=96, heads=3, width=48, kv_heads=3),
    physics("full", pattern="full", kv_heads=2, tokens=96),
    physics("full_odd", pattern="full", tokens=99, kv_heads=1, rows=1),
    physics("all_weights", mode="full", tied=True, tokens=96, group=32, kv_heads=2),
    physics("batch_5", rows=5, tokens=96, group=16, kv_heads=2),
    physics("all_targets", targets=cases.ATTENTION + cases.MLP, tokens=96, group=48),
)}

Row = namedtuple("Row", "physics data sequence chunks policy")

# T is the shard's length, h half a group.
TABLE = [
    Row("s2", 1, 1, 1, "recompute_mlp"),
    Row("s2", 1, 1, 1, "recompute_layer"),
    Row("s2", 1, 1, 4, "keep"),                       # T = 2 h
    Row("s2", 1, 2, 1, "keep"),                       # T = 4 h
    Row("s2", 2, 1, 8, "recompute_layer"),            # T = h
    Row("s2", 1, 2, 4, "recompute_layer"),            # T = h
    Row("s2", 1, 8, 1, "recompute_mlp"),              # T = h
    Row("s2", 2, 4, 2, "keep"),                       # T = h
    Row("s2", 1, 4, 8, "recompute_layer"),            # T = h / 4
    Row("s2", 1, 3, 2, "keep"),                       # T and h do not divide each other
    Row("small_groups", 1, 3, 8, "keep"),             # T = h
    Row("small_groups", 1, 4, 2, "recompute_layer"),  # T = 3 h: borders of both kinds
    Row("small_groups", 1, 8, 4, "keep"),
    Row("odd_heads", 1, 2, 3, "keep"),
    Row("odd_heads", 1, 4, 3, "recompute_layer"),     # T = h
    Row("odd_heads", 2, 3, 1, "recompute_mlp"),
    Row("long_group", 1, 8, 1, "keep"),               # a group is longer than five shards
    Row("long_group", 1, 4, 4, "recompute_layer"),    # ... than a chunk and more
    Row("long_group", 4, 2, 3, "keep"),               # one row, four replicas
    Row("one_group", 1, 4, 1, "keep"),
    Row("one_group", 1, 3, 4, "recompute_mlp"),
    Row("half_group_left", 1, 3, 1, "keep"),
    Row("half_group_left", 1, 8, 3, "recompute_layer"),
    Row("local", 1, 8, 2, "keep"),
    Row("local", 2, 2, 4, "recompute_mlp"),
    Row("shifted", 1, 4, 2, "keep"),
    Row("shifted", 1, 3, 8, "recompute_layer"),
    Row("wrap", 1, 2, 1, "keep"),
    Row("wrap", 1, 8, 1, "recompute_layer"),
    Row("wrap_long_group", 1, 8, 1, "keep"),
    Row("wrap_long_group", 2, 3, 1, "recompute_mlp"),
    Row("full", 1, 2, 1, "keep"),
    Row("full", 1, 4, 8, "recompute_layer"),
    Row("full", 2, 3, 4, "recompute_mlp"),
    Row("full", 1, 8, 2, "keep"),
    Row("full_odd", 1, 3, 11, "keep"),
    Row("all_weights", 1, 3, 2, "keep"),
    Row("all_weights", 2, 2, 3, "recompute_layer"),
    Row("batch_5", 2, 1, 1, "keep"),
    Row("batch_5", 3, 1, 2, "keep"),
    Row("batch_5", 4, 2, 3, "recompute_layer"),
    Row("batch_5", 8, 1, 1, "keep"),                  # three replicas have no row
    Row("all_targets", 1, 4, 2, "recompute_mlp"),
    Row("all_targets", 1, 2, 3, "recompute_layer"),
]


def words(row):
    return f"{row.physics}: data {row.data}, sequence {row.sequence}, chunks {row.chunks}, {row.policy}"


class Layouts(ProgramTest):
    def setUp(self):
        super().setUp()
        self.inputs = {}      # physics -> options
        self.references = {}  # physics -> (loss, gradients)

    def options(self, name):
        if name not in self.inputs:
            case = PHYSICS[name]
            files = cases.write(case, cases.build(case), self.folder / name)
            self.inputs[name] = {**files, **cases.physics_options(case), "train.steps": 1}
        return self.inputs[name]

    def gradients(self, row):
        ranks = row.data * row.sequence
        folder = self.folder / row.physics / f"{row.data}-{row.sequence}-{row.chunks}-{row.policy}"
        dump = folder / "gradients.h5"
        program.train({**self.options(row.physics), "run.directory": folder, "train.dump_gradients": dump,
                       "parallel.sequence": row.sequence, "sequence.chunks": row.chunks,
                       "train.activations": row.policy}, ranks)
        return program.read_gradients(dump)

    def reference(self, name):
        if name not in self.references:
            self.references[name] = self.gradients(Row(name, 1, 1, 1, "keep"))
        return self.references[name]

    def compare(self, row):
        loss, gradients = self.gradients(row)
        expected_loss, expected = self.reference(row.physics)
        self.assertEqual(gradients.keys(), expected.keys())
        self.assert_close(loss, expected_loss, LOSS_LIMIT, "loss")
        return max((self.assert_close(gradients[name], expected[name], GRADIENT_LIMIT, name), name)
                   for name in expected)

    def test_table(self):
        self.assertGreaterEqual(len(TABLE), 24)
        for row in TABLE:
            with self.subTest(words(row)):
                error, name = self.compare(row)
                print(f"{words(row):62} {error:.1e}  {name}", flush=True)


if __name__ == "__main__":
    program.main()
