"""train.deterministic = layout: loss, gradients, checkpoints and 50 steps of training have the same bits on any number
of ranks and every data x sequence x chunks split whose shards are at least half a group long, and a run that changes
its layout on the way ends with the same bits as well.
"""

from collections import namedtuple

import program
from program import ProgramTest, np

LENGTH = 192
GROUP = 48   # 8 half-groups a row: shards of one, two, four or eight
STEPS = 50
BATCH = 3    # not divisible by 2, 4 and 8 replicas

PHYSICS = {**program.TINY, "model.tied": "false", "sequence.length": LENGTH, "attention.group": GROUP,
           "rope.scaling": "linear", "rope.factor": 4, "train.batch": BATCH, "train.learning_rate": 1e-2,
           "train.warmup_steps": 5, "train.clip_norm": 0.5, "tune.dropout": 0.1, "train.deterministic": "layout"}

Layout = namedtuple("Layout", "ranks sequence chunks threads activations", defaults=(1, "auto"))

REFERENCE = Layout(1, 1, 1)
LAYOUTS = [
    Layout(1, 1, 2, 1, "recompute_layer"),
    Layout(1, 1, 4, 2),
    Layout(1, 1, 8, 1, "keep"),
    Layout(2, 1, 1, 1, "recompute_mlp"),
    Layout(2, 1, 4),
    Layout(2, 2, 1, 2, "keep"),
    Layout(2, 2, 2, 1, "recompute_layer"),
    Layout(2, 2, 4),
    Layout(3, 1, 1),
    Layout(3, 1, 8),
    Layout(4, 1, 2),
    Layout(4, 2, 1, 1, "recompute_layer"),
    Layout(4, 2, 4),
    Layout(4, 4, 1, 1, "recompute_mlp"),
    Layout(4, 4, 2),
    Layout(6, 2, 2),
    Layout(8, 1, 1),  # replicas without a row
    Layout(8, 2, 4),
    Layout(8, 4, 2),
    Layout(8, 8, 1),
]
RELAY = LAYOUTS[::2]  # 10 of 5 steps each

# What else must not matter, in fewer steps on fewer layouts.
FEW_STEPS = 4
FEW_LAYOUTS = [Layout(1, 1, 8), Layout(2, 2, 2, 1, "recompute_layer"), Layout(3, 1, 2), Layout(4, 4, 1),
               Layout(8, 4, 2)]
VARIANTS = {
    "wrap": {"attention.boundary": "wrap"},
    "local": {"attention.pattern": "local"},
    "shifted": {"attention.pattern": "shifted"},
    "lora": {"tune.mode": "lora"},
    "full, tied": {"tune.mode": "full", "tune.dropout": 0, "model.tied": "true"},
    "as many K/V heads as heads": {"model.kv_heads": 4},
    "odd heads": {"model.heads": 3, "model.kv_heads": 1, "model.head_dim": 10},
    "seven targets": {"tune.targets": "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"},
}


def words(layout):
    return (f"{layout.ranks // layout.sequence} data x {layout.sequence} sequence x {layout.chunks} chunks, "
            f"{layout.threads} threads, {layout.activations}")


class Deterministic(ProgramTest):
    @classmethod
    def setUpClass(cls):
        cls.make_common_folder()
        cls.data = program.write_tokens(cls.common / "rows.npy", 11, LENGTH)

    def train_on(self, layout, folder, steps, physics=PHYSICS, **more):
        return program.train({**physics, "data.train": self.data, "run.directory": folder, "train.steps": steps,
                              "train.checkpoint_every": 0, "parallel.sequence": layout.sequence,
                              "sequence.chunks": layout.chunks, "parallel.threads": layout.threads,
                              "train.activations": layout.activations, **more}, layout.ranks)

    def result(self, folder, step):
        """name -> array of all that must be the same."""
        found = {f"steps/{name}": program.read_steps(folder / "log.h5")[name] for name in ("step", "loss", "gradient_norm")}
        for group in ("trainable", "moments"):
            tensors = program.read_tensors(program.checkpoint(folder, step), group)
            found.update({f"{group}/{name}": tensor for name, tensor in tensors.items()})
        if (folder / "gradients.h5").exists():
            loss, gradients = program.read_gradients(folder / "gradients.h5")
            found.update({"dumped loss": np.float64(loss), **{f"gradient of {name}": g for name, g in gradients.items()}})
        return found

    def run_of(self, layout, name, steps, physics=PHYSICS):
        folder = self.folder / name
        self.train_on(layout, folder, steps, physics, **{"train.dump_gradients": folder / "gradients.h5"})
        return self.result(folder, steps)

    def assert_same_bits(self, found, expected, what):
        self.assertEqual(found.keys(), expected.keys(), what)
        different = [name for name in expected if found[name].tobytes() != expected[name].tobytes()]
        self.assertEqual(different, [], what)

    def test_fifty_steps_on_every_layout(self):
        expected = self.run_of(REFERENCE, "reference", STEPS)
        self.assertEqual(expected["steps/step"].tolist(), list(range(1, STEPS + 1)))
        self.assertLess(expected["steps/loss"][-1], expected["steps/loss"][0])
        self.assertGreaterEqual(len(LAYOUTS), 16)
        for layout in LAYOUTS:
            with self.subTest(words(layout)):
                self.assert_same_bits(self.run_of(layout, words(layout), STEPS), expected, words(layout))
        with self.subTest("resumed on another layout every five steps"):
            folder = self.folder / "relay"
            for i, layout in enumerate(RELAY):
                out = self.train_on(layout, folder, 5 * (i + 1)).out
                self.assertTrue(i == 0 or f"resumed at step {5 * i}" in out, out)
            without_dump = {name: value for name, value in expected.items() if "/" in name}
            self.assert_same_bits(self.result(folder, STEPS), without_dump, "relay")

    def test_other_physics(self):
        for name, options in VARIANTS.items():
            physics = {**PHYSICS, **options}
            expected = self.run_of(REFERENCE, name, FEW_STEPS, physics)
            for layout in FEW_LAYOUTS:
                if "attention.boundary" in options:
                    layout = layout._replace(chunks=1)  # wrap can't be streamed
                with self.subTest(f"{name}: {words(layout)}"):
                    found = self.run_of(layout, f"{name} {words(layout)}", FEW_STEPS, physics)
                    self.assert_same_bits(found, expected, f"{name}: {words(layout)}")

    def test_same_layout(self):
        """train.deterministic = run promises less: the same bits in two runs on one layout."""
        physics = {**PHYSICS, "train.deterministic": "run", "attention.group": 16}
        layout = Layout(4, 2, 2)
        once, again = (self.run_of(layout, name, FEW_STEPS, physics) for name in ("once", "again"))
        self.assert_same_bits(again, once, "run")

    def test_dry_run_says_what_holds(self):
        def bits(**options):
            result = program.run(["--dry-run"], {**PHYSICS, "data.train": self.data, **options}, 2, cwd=self.folder)
            self.assert_code(result, 0)
            return next(line for line in result.out.splitlines() if line.startswith("bits "))

        self.assertIn("on every layout", bits())
        self.assertIn("(train.deterministic run)", bits(**{"train.deterministic": "run"}))
        self.assertIn("(full attention)", bits(**{"attention.pattern": "full"}))
        self.assertIn("(shards are not whole", bits(**{"sequence.chunks": 16, "parallel.sequence": 2}))


if __name__ == "__main__":
    program.main()
