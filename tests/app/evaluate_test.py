"""The command evaluate: its protocols and who sees whom, against the losses of training and of shorter texts."""

import numpy as np

import program
from program import ProgramTest

LENGTH = 96
GROUP = 32


class Evaluate(ProgramTest):
    def setUp(self):
        super().setUp()
        self.tokens = program.write_tokens(self.folder / "tokens.npy", 3, LENGTH)
        self.run_folder = self.folder / "run"

    def train(self, **options):
        """One step on row 0; its loss is that of the random base, its checkpoint has learned next to nothing."""
        program.train({**program.TINY, "sequence.length": LENGTH, "attention.group": GROUP, "train.steps": 1,
                       "train.batch": 3, "train.learning_rate": 1e-12, "train.warmup_steps": 0, "data.train": self.tokens,
                       "run.directory": self.run_folder, **options})
        return program.read_steps(self.run_folder / "log.h5")["loss"][0]

    def evaluate(self, ranks=1, **options):
        """The table's rows: context, scored tokens, perplexity."""
        result = program.run(["evaluate"], {"run.directory": self.run_folder, "data.validation": self.tokens,
                                            "evaluate.contexts": LENGTH, **options}, ranks)
        self.assert_code(result, 0)
        rows = [line.split() for line in result.out.splitlines() if line[:1].isspace() or line[:1].isdigit()]
        return {int(row[0]): (int(row[1]), float(row[2])) for row in rows if len(row) == 3}

    def test_attention_of_training(self):
        """A window that is a row of training has that row's loss, for every pattern, boundary and number of ranks."""
        single = np.load(self.tokens)[:LENGTH + 1]
        np.save(self.folder / "row.npy", single)
        for pattern in ("s2", "local", "shifted", "full"):
            for boundary in ("truncate", "wrap") if pattern in ("s2", "shifted") else ("truncate",):
                with self.subTest(pattern=pattern, boundary=boundary):
                    self.run_folder = self.folder / f"{pattern}-{boundary}"
                    loss = self.train(**{"attention.pattern": pattern, "attention.boundary": boundary, "train.batch": 1,
                                         "data.train": self.folder / "row.npy"})
                    for ranks in (1, 3):
                        scored, perplexity = self.evaluate(ranks, **{"evaluate.attention": "s2", "evaluate.tokens": LENGTH})[LENGTH]
                        self.assertEqual(scored, LENGTH)
                        self.assertLess(abs(perplexity / np.exp(loss) - 1), 1e-5)

    def test_protocols(self):
        """longlora scores every window's own tokens: the mean over windows of what one window alone has."""
        self.train()
        context, stride = 32, 8
        stream = np.load(self.tokens)
        labels = len(stream) - 1
        options = {"evaluate.contexts": context, "evaluate.stride": stride, "evaluate.tokens": 0, "evaluate.protocol": "longlora"}
        scored, perplexity = self.evaluate(2, **options)[context]
        begins = list(range(0, len(stream) - context, stride))[:-1]
        self.assertEqual(scored, len(begins) * (context - 1))
        losses = []
        for begin in begins[:3] + begins[-1:]:
            np.save(self.folder / "window.npy", stream[begin:begin + context])
            alone = {"evaluate.contexts": context - 1, "evaluate.tokens": 0, "data.validation": self.folder / "window.npy"}
            losses.append(np.log(self.evaluate(**alone)[context - 1][1]))
        cut = {**options, "evaluate.tokens": begins[3] + context}  # four windows fit, the last is left out
        self.assertLess(abs(np.log(self.evaluate(**cut)[context][1]) - np.mean(losses[:3])), 1e-5)
        sliding = self.evaluate(**{**options, "evaluate.protocol": "sliding"})[context]
        self.assertEqual(sliding[0], labels)
        self.assertNotAlmostEqual(sliding[1], perplexity, places=3)

    def test_log_names_the_protocol(self):
        self.train()
        self.evaluate(**{"evaluate.protocol": "longlora", "evaluate.attention": "s2", "evaluate.contexts": f"{GROUP},{LENGTH}"})
        with program.h5py.File(self.run_folder / "log.h5") as log:
            self.assertEqual([name.decode() for name in log["evaluations/protocol"][-2:]], 2 * ["longlora s2"])

    def test_a_context_that_does_not_fit_the_groups(self):
        self.train()
        result = program.run(["evaluate"], {"run.directory": self.run_folder, "data.validation": self.tokens,
                                            "evaluate.attention": "s2", "evaluate.contexts": 40})
        self.assert_code(result, 2)
        self.assertIn("half-groups of 16", result.err)


if __name__ == "__main__":
    program.main()
