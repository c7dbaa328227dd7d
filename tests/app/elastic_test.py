"""Saved on 8 ranks, continued on fewer and on other data x sequence x chunks layouts: the same rows in the same steps,
losses as of the undisturbed run.

Which rows a step has seen is read from its checkpoint. Each row of the data has words of its own, an embedding has a
gradient where its word was seen, and the first moment tells that gradient: m_t - beta1 m_(t-1) = (1 - beta1) g_t, with
beta1 = 1/2 exactly zero where g_t is.
"""

import shutil
from collections import namedtuple

import program
from program import ProgramTest, np

LENGTH = 96  # divides by 8 and by 12
ROWS = 13
WORDS = 4    # of each row
BATCH = 5    # divides by no number of replicas but 1; an epoch ends within a batch
SAVED, STEPS = 3, 8
BETA1 = 0.5
LOSS_LIMIT = 1e-5

PHYSICS = {**program.TINY, "model.vocabulary": ROWS * WORDS, "model.tied": "false", "sequence.length": LENGTH,
           "attention.group": 16, "rope.scaling": "linear", "rope.factor": 4, "train.batch": BATCH, "train.beta1": BETA1,
           "train.learning_rate": 1e-2, "train.warmup_steps": 2, "tune.dropout": 0.1, "train.checkpoint_every": 1,
           "run.keep": STEPS}

Layout = namedtuple("Layout", "ranks sequence chunks")

SAVED_ON = Layout(8, 2, 2)
CONTINUED_ON = [
    Layout(1, 1, 1),
    Layout(1, 1, 12),
    Layout(2, 1, 2),
    Layout(2, 2, 3),
    Layout(3, 1, 4),
    Layout(3, 3, 1),
    Layout(4, 2, 6),
    Layout(4, 4, 1),
    Layout(6, 1, 1),  # a replica has no row
    Layout(6, 2, 2),
    Layout(6, 6, 2),
    Layout(8, 4, 3),
    Layout(8, 8, 1),
]
RELAY = [Layout(3, 3, 2), Layout(6, 2, 1), Layout(1, 1, 2), Layout(4, 1, 3), Layout(2, 2, 1)]  # a step each


def words(layout):
    return f"{layout.ranks // layout.sequence} data x {layout.sequence} sequence x {layout.chunks} chunks"


def write_rows(path):
    """Row r says its words r WORDS ... r WORDS + WORDS - 1, in any order."""
    own = program.random_tokens(ROWS * (LENGTH + 1), WORDS).reshape(ROWS, -1)
    np.save(path, (own + WORDS * np.arange(ROWS)[:, None]).astype(np.int32).ravel())
    return path


def embedding_moment(folder, step):
    moments = program.read_tensors(program.checkpoint(folder, step), "moments/first")
    return next(value for name, value in moments.items() if "embed_tokens" in name)


def rows_of_step(folder, step):
    before = embedding_moment(folder, step - 1) if step > 1 else np.float32(0)
    seen = np.any(embedding_moment(folder, step) != np.float32(BETA1) * before, axis=1)
    return np.flatnonzero(seen.reshape(ROWS, WORDS).any(axis=1)).tolist()


class Elastic(ProgramTest):
    @classmethod
    def setUpClass(cls):
        cls.make_common_folder()
        cls.physics = {**PHYSICS, "data.train": write_rows(cls.common / "rows.npy")}
        cls.whole, cls.saved = cls.common / "whole", cls.common / "saved"
        cls.train_on(SAVED_ON, cls.whole, STEPS)
        cls.train_on(SAVED_ON, cls.saved, SAVED)
        cls.rows = [rows_of_step(cls.whole, step) for step in range(1, STEPS + 1)]

    @classmethod
    def train_on(cls, layout, folder, steps):
        return program.train({**cls.physics, "run.directory": folder, "train.steps": steps,
                              "parallel.sequence": layout.sequence, "sequence.chunks": layout.chunks}, layout.ranks)

    def copy_of_saved(self, name):
        return program.Path(shutil.copytree(self.saved, self.folder / name))

    def assert_goes_on(self, layout, folder, begin, end):
        self.assertIn(f"resumed at step {begin}", self.train_on(layout, folder, end).out)

    def assert_as_undisturbed(self, folder, what):
        self.assertEqual([rows_of_step(folder, step) for step in range(1, STEPS + 1)], self.rows, what)
        found, expected = (program.read_steps(run / "log.h5") for run in (folder, self.whole))
        self.assertEqual(found["step"].tolist(), expected["step"].tolist(), what)
        self.assertEqual(found["tokens"].tolist(), expected["tokens"].tolist(), what)
        error = max(self.assert_close(found["loss"][step], expected["loss"][step], LOSS_LIMIT,
                                      f"{what}: loss of step {step + 1}") for step in range(STEPS))
        print(f"{what:40} losses within {error:.1e}", flush=True)

    def test_the_rows_can_be_told(self):
        """Else the other tests would say nothing: each step saw BATCH rows, the first epoch each of them once."""
        self.assertEqual([len(rows) for rows in self.rows], [BATCH] * STEPS, self.rows)
        drawn = [row for rows in self.rows for row in rows]
        self.assertEqual(len(set(drawn[:ROWS // BATCH * BATCH])), ROWS // BATCH * BATCH)
        self.assertEqual(set(drawn[:2 * ROWS]), set(range(ROWS)))

    def test_other_layouts(self):
        self.assertLess({1, 2, 3, 4, 6}, {layout.ranks for layout in CONTINUED_ON})
        for layout in CONTINUED_ON:
            with self.subTest(words(layout)):
                folder = self.copy_of_saved(words(layout))
                self.assert_goes_on(layout, folder, SAVED, STEPS)
                self.assert_as_undisturbed(folder, words(layout))

    def test_another_layout_each_step(self):
        folder = self.copy_of_saved("relay")
        for step, layout in enumerate(RELAY, SAVED):
            self.assert_goes_on(layout, folder, step, step + 1)
        self.assert_as_undisturbed(folder, "relay")


if __name__ == "__main__":
    program.main()
